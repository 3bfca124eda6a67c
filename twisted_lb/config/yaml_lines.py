"""YAML text as plain data, with the line of each key, and duplicate keys.

PyYAML's safe loader parses the text.  It drops line numbers and keeps the last of duplicate keys, so the tree of nodes
is inspected before it is converted to data.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import yaml

# libyaml's parser takes a tenth of the time; PyYAML is built without it on some platforms.
_FAST: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# The place of a value in the data: keys and indexes from the top.
Path = tuple[str | int, ...]


class NotYaml(Exception):
    """The text is invalid; `line` counts from 1."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


class Document(NamedTuple):
    """A parsed YAML text.  `data` is None for an empty one."""

    data: object
    lines: dict[Path, int]
    twice: list[tuple[Path, int]]  # duplicate keys, and the line of the first occurrence

    def line(self, path: Path) -> int:
        """The line of `path`, or of the innermost container of it that exists."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def read_yaml(text: str) -> Document:
    """The one document in `text`.  Raises NotYaml."""
    try:
        try:
            return _read(text, _FAST)
        except yaml.YAMLError:
            # The other parser finds the place of an error more exactly.
            return _read(text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = str(error.problem or error.context)
        if "alias" in f"{error.context} {reason}":
            reason += "; a text that begins with '*' has to be in quotes"
        raise NotYaml(mark.line + 1 if mark else 1, reason) from None
    except RecursionError:
        raise NotYaml(1, "it is nested too deeply") from None
    # A text that looks like a date or a number but is not valid raises ValueError.
    except (yaml.YAMLError, ValueError) as error:
        raise NotYaml(1, " ".join(str(error).split())) from None


def _read(text: str, loader_class: Any) -> Document:
    document = Document(None, {}, [])
    loader = loader_class(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return document
        _survey(node, (), document, set())
        return document._replace(data=loader.construct_document(node))
    finally:
        loader.dispose()


def _survey(node: yaml.Node, path: Path, document: Document, seen: set[int]) -> None:
    document.lines[path] = node.start_mark.line + 1
    # An alias leads to a node seen before, perhaps one that contains the alias.
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _survey(item, (*path, index), document, seen)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            # Other kinds of keys are rejected when the data is constructed.
            if not isinstance(key, yaml.ScalarNode):
                continue
            here = (*path, key.value)
            if here in document.lines:
                document.twice.append((here, document.lines[here]))
            _survey(value, here, document, seen)
            document.lines[here] = key.start_mark.line + 1
