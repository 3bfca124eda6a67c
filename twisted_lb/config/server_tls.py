"""TLS to servers as servers.yaml configures it: keys of the file -> settings of each server -> TLS contexts.

1. Key by key, a server's `tls` takes precedence over that of its pool, and that over the one at the top.
2. The files are read and checked once for all servers with the same settings.  Their contents belong to the
   configuration from then on.
3. A context is made from the contents, and the files are not read again: a process needs no right to read them.
"""

from __future__ import annotations

import binascii
import os
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from twisted_lb.config.gateway import GatewaySpec
from twisted_lb.config.pool import ServerTls, TlsFiles
from twisted_lb.config.server_url import domain_of, is_https, location
from twisted_lb.config.servers_schema import ServerModel, TlsModel
from twisted_lb.config.yaml_lines import Path
from twisted_lb.files import read_regular_file
from twisted_lb.listed import listed
from twisted_lb.network.certificate import Certificate, CertificateError, has_key, load, read_certificate
from twisted_lb.network.tls_context import APPLICATION_PROTOCOLS
from twisted_lb.network.tls_errors import words_of

MAX_FILE_BYTES = 16 * 1024 * 1024  # the authorities of a system take a quarter of one
SHOWN_SERVERS = 3
SYSTEM = ""  # the "path" of the authorities of the system

_CERTIFICATE = re.compile(rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----([^-]*+)-----END [A-Z0-9 ]+-----")
_FILE_KEYS = ("ca_file", "cert_file", "key_file")

# Returns the contents of a file.  Raises OSError, and ValueError for one that is not a file.
ReadFile = Callable[[str], bytes]
# The place of a key in the file, and what is wrong with it.
Problem = tuple[Path, str]


class NotUsable(Exception):
    """A file cannot be used."""

    def __init__(self, key: str, reason: str) -> None:
        """`key` is that of `tls` which names the file."""
        super().__init__(reason)
        self.key = key


def read_file(path: str) -> bytes:
    """The contents of a file; for SYSTEM, a value that changes when the authorities of the system do.

    Raises OSError, and ValueError for a directory, a pipe, or more than MAX_FILE_BYTES.
    """
    if path == SYSTEM:
        return _system_authorities()
    return read_regular_file(path, MAX_FILE_BYTES)


class ServersTls:
    """The TLS settings of the servers of one file."""

    def __init__(self, directory: str, read: ReadFile = read_file) -> None:
        """Relative paths are relative to `directory`."""
        self.problems: list[Problem] = []
        self._directory = directory
        self._read = read
        self._loaded: dict[TlsFiles, TlsFiles] = {}  # as in the file -> with contents

    def not_needed(self, section: TlsModel | None, place: Path) -> None:
        """There is no https:// server to which this section could apply."""
        if section is not None:
            self.problems.append((place, "expected at least one server with an https:// url"))

    def of(
        self, server: ServerModel, place: Path, general: Sequence[tuple[TlsModel | None, Path]]
    ) -> ServerTls | None:
        """The settings of a server at this place; None for an http:// one.

        `general` are the sections that are not its own, the most general first, and their places.
        """
        own = server.tls
        if not is_https(server.url):
            if own is not None:
                self.problems.append(((*place, "tls"), "expected only with an https:// url"))
            return None
        keys: dict[str, Any] = {}
        places: dict[str, Path] = {}
        for section, where in (*general, (own, (*place, "tls"))):
            for key in section.model_fields_set if section is not None else ():
                keys[key] = getattr(section, key)
                places[key] = (*where, key)
        name = keys.pop("server_name", "") or domain_of(location(server.url)[0])
        if keys.get("key_file") and not keys.get("cert_file"):
            if "cert_file" not in keys:
                self.problems.append((places["key_file"], "expected cert_file beside it"))
            # Otherwise the server has no certificate, unlike the others, and needs no key.
            del keys["key_file"]
        for key in _FILE_KEYS:
            if keys.get(key):
                keys[key] = os.path.join(self._directory, keys[key])
        wanted = TlsFiles(**keys)
        if wanted not in self._loaded:
            self._loaded[wanted] = wanted
            try:
                self._loaded[wanted] = loaded(wanted, self._read)
            except NotUsable as error:
                self.problems.append((places.get(error.key, ()), str(error)))
        return ServerTls(name.rstrip("."), self._loaded[wanted])


def loaded(wanted: TlsFiles, read: ReadFile = read_file) -> TlsFiles:
    """The same with the contents of the files, after checking them.  Raises NotUsable."""
    contents: dict[str, bytes] = {}
    for key in _FILE_KEYS:
        path = getattr(wanted, key)
        if path and path not in contents:
            try:
                contents[path] = read(path)
            except (OSError, ValueError, KeyError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                raise NotUsable(key, f"cannot read {path!r}: {reason}") from None
    if wanted.verify and not wanted.ca_file:
        contents[SYSTEM] = read(SYSTEM)
    digest = sha256()
    for content in contents.values():
        digest.update(b"%d\n" % len(content))
        digest.update(content)
    made = replace(wanted, digest=digest.hexdigest(), contents=contents)
    if wanted.ca_file or wanted.cert_file:
        # OpenSSL has requirements of its own, such as the length of keys.
        client_context(made)
    return made


def _system_authorities() -> bytes:
    found = b""
    paths = ssl.get_default_verify_paths()
    for path in (paths.cafile, paths.capath):
        try:
            status = os.stat(path or "")
        except OSError:
            continue
        found += b"%d %d %d\n" % (status.st_mtime_ns, status.st_size, status.st_ino)
    return found


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """A TLS context for connections to servers, from the contents of the files.  Raises NotUsable."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # TLS 1.2 and 1.3
    context.set_alpn_protocols(list(APPLICATION_PROTOCOLS))
    if not files.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.hostname_checks_common_name = False
    if files.ca_file:
        # Every certificate in the file is trusted by itself, even a server's own, or an intermediate one.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        found = _CERTIFICATE.findall(files.contents[files.ca_file])
        if not found:
            raise NotUsable("ca_file", f"expected certificates in PEM in {files.ca_file!r}; there is none")
        try:
            blocks = [binascii.a2b_base64(block) for block in found]
            context.load_verify_locations(cadata=b"".join(blocks))
        except (binascii.Error, ssl.SSLError) as error:
            text = f"expected certificates in PEM in {files.ca_file!r}; one is damaged: {words_of(error)}"
            raise NotUsable("ca_file", text) from None
    elif files.verify:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if files.cert_file:
        try:
            load(context, own_certificate(files))
        except CertificateError as error:
            raise NotUsable("cert_file", str(error)) from None
    return context


def own_certificate(files: TlsFiles) -> Certificate:
    """Our certificate, with its key.  Raises NotUsable."""
    chain, key = files.contents[files.cert_file], files.contents[files.key_file or files.cert_file]
    try:
        return read_certificate(files.cert_file, chain, key, files.key_file)
    except CertificateError as error:
        text = str(error)
        if files.key_file:
            raise NotUsable("key_file" if text.startswith(f"{files.key_file}: ") else "cert_file", text) from None
        raise NotUsable("cert_file", text if has_key(key) else f"{text}; expected it there, or key_file") from None



def files_of(spec: GatewaySpec) -> dict[str, bytes]:
    """All files of a configuration, and their contents; SYSTEM is among them where servers are verified by it."""
    found: dict[str, bytes] = dict(spec.secrets)
    for files in distinct_files(spec):
        found.update(files.contents)
    return found


def distinct_files(spec: GatewaySpec) -> dict[TlsFiles, int]:
    """The different settings, and how many servers have each."""
    found: dict[TlsFiles, int] = {}
    templates = [pool.discover.template for pool in spec.pools if pool.discover.template is not None]
    for server in (*spec.servers, *templates):
        if server.tls is not None:
            found[server.tls.files] = found.get(server.tls.files, 0) + 1
    return found


def files_changed(files: Mapping[str, bytes], read: ReadFile = read_file) -> bool:
    """Whether one of the files has other contents now, or cannot be read."""
    try:
        return any(read(path) != content for path, content in files.items())
    except (OSError, ValueError):
        return True


def tls_notices(spec: GatewaySpec, file_name: str, now: float) -> list[str]:
    """Notices of probable mistakes: servers that are not verified, and certificates that are not valid `now`."""
    notices = []
    for one in distinct_files(spec):
        if one.cert_file and not own_certificate(one).valid_at(now):
            text = f"{one.cert_file}: the certificate has expired, or is not valid yet"
            notices.append(f"{file_name}: tls.cert_file: {text}")
    names = [server.name for server in spec.servers if server.tls is not None and not server.tls.files.verify]
    lists = [(pool.discover.file, pool.discover.template) for pool in spec.pools]
    names += [f"those in {file}" for file, one in lists if one and one.tls is not None and not one.tls.files.verify]
    if names:
        notices.append(
            f"{file_name}: tls: verify: false for {listed(names, SHOWN_SERVERS)}: their certificates are not "
            "verified, so whoever is between this machine and such a server can read and change all requests"
        )
    return notices
