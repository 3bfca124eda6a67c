"""`${NAME}` and `${file:/path}` in the texts of servers.yaml: environment variables and secrets in files.

They are replaced in texts only, after the file was parsed, so that a secret cannot change its structure; `$${` is `${`.
The places of references are recorded, so that no message shows a secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted_lb.config.secret_files import SecretError, secret_text
from twisted_lb.config.yaml_lines import Path

_REFERENCE: Final = re.compile(r"\$(\$\{|\{(?:file:([^{}]{1,1024})|([A-Za-z_][A-Za-z0-9_]{0,127}))\}|\{)")
FORMS: Final = "${NAME} or ${file:/path}; $${ stands for ${ itself"

# Returns the content of a file.  Raises SecretError, and KeyError for a file that is not known.
ReadSecret = Callable[[str], bytes]


class References:
    """Replaces the references in one file."""

    def __init__(self, environment: Mapping[str, str], directory: str, read: ReadSecret) -> None:
        """Relative paths are relative to `directory`."""
        self.problems: list[tuple[Path, str]] = []
        self.files: dict[str, bytes] = {}  # the files that were named, and their contents
        self._places: dict[Path, str] = {}  # the texts with references
        self._secrets: set[str] = set()
        self._environment = environment
        self._directory = directory
        self._read = read

    def replaced(self, data: Any, path: Path = ()) -> Any:
        """The data with all references replaced."""
        return self._replaced(data, path, {})

    def hidden(self, path: Path, text: str) -> str:
        """A message about the value at `path` without what was replaced in it, or in what it contains."""
        for place, written in self._places.items():
            if place[: len(path)] == path or path[: len(place)] == place:
                # Messages end with the value.
                text = text.partition(", not ")[0]
                if any(secret in text for secret in self._secrets):
                    text = "the value cannot be used"
                return f"{text}, not the value of {written}" if place == path else text
        return text

    @property
    def values(self) -> frozenset[str]:
        """The values of the references."""
        return frozenset(self._secrets)

    def concerns(self, path: Path) -> bool:
        """Whether there is a reference at `path`, or in what it contains, that could not be replaced."""
        return any(place[: len(path)] == path for place, _ in self.problems)

    def _replaced(self, data: Any, path: Path, done: dict[int, Any]) -> Any:
        if isinstance(data, str):
            return self._text(data, path) if "${" in data else data
        if not isinstance(data, (dict, list)):
            return data
        # An alias of YAML leads to an object that was seen before, perhaps one that contains it.
        if id(data) not in done:
            done[id(data)] = data
            for key, value in list(data.items() if isinstance(data, dict) else enumerate(data)):
                data[key] = self._replaced(value, (*path, key), done)
        return data

    def _text(self, text: str, path: Path) -> str:
        def value(found: re.Match[str]) -> str:
            whole, file, name = found.groups()
            if whole == "${":
                return "${"
            self._places[path] = text
            try:
                secret = self._file(file) if file else self._environment[name] if name else ""
            except KeyError:
                self.problems.append((path, f"the environment has no variable {name}"))
                return ""
            except SecretError as error:
                self.problems.append((path, f"{file}: {error}"))
                return ""
            if not file and not name:
                self.problems.append((path, f"expected {FORMS}, not {text!r}"))
            elif secret:
                self._secrets.add(secret)
            return secret

        return _REFERENCE.sub(value, text)

    def _file(self, path: str) -> str:
        path = os.path.join(self._directory, path)
        content = self._read(path)
        self.files[path] = content
        return secret_text(content)
