"""Where else a registry's images may be had from: containerd's ``hosts.toml``.

Format: containerd v2.1, ``docs/hosts.md``. Where containerd logs what it cannot understand and
goes on without, this is an error, since a mirror that is not used looks like one that is.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from cdimage.reference import DEFAULT_REGISTRY
from cdimage.registry.certificates import certificates_in, named_certificates
from cdimage.registry.table import Table, read_table, unreadable

DEFAULT_API_HOST: Final = "registry-1.docker.io"
"""Who speaks for the registry that references name when they name none."""

_FILE: Final = "hosts.toml"
_FOR_ALL: Final = "_default"
_HOST_KEYS: Final = frozenset(
    {"ca", "capabilities", "client", "dial_timeout", "header", "override_path", "skip_verify"}
)
_TOP_KEYS: Final = frozenset({"host", "server"})
_TLS_KEYS: Final = frozenset({"ca", "client", "skip_verify"})
_CAPABILITIES: Final = ("pull", "resolve", "push", "referrers")
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_ADDRESS: Final = re.compile(
    r"(?:(?P<scheme>https?)://)?"
    r"(?P<host>[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?|\[(?P<v6>[0-9a-f:.]+)\])"
    r"(?P<port>:[0-9]{1,5})?"
    r"(?P<path>/(?:[a-z0-9/:!$&'()*+,;=._~-]|%[0-9a-f]{2})*)?",
    re.IGNORECASE | re.ASCII,
)


class Capability(StrEnum):
    """What a host is trusted with. Others than these are of no use for reading."""

    PULL = "pull"
    RESOLVE = "resolve"


@dataclass(frozen=True, slots=True)
class Host:
    """One place that a registry's images may be had from. Its text never shows a header.

    Attributes:
        url: ``scheme://host[:port]/path``, where the API is; it ends with no slash.
        capabilities: Bytes that are named by digest come from where `Capability.PULL` is; what
            a tag is, only from where `Capability.RESOLVE` is. Maybe neither.
        ca: Files in PEM of who may sign for it, besides those whom this machine trusts.
        client: Files in PEM of a certificate and its key, to show to it; maybe the same file.
        skip_verify: Whether its certificate is not checked.
        headers: To send to it, and to no host that it redirects to.
        dial_timeout: Seconds for connecting, 0 for no limit, None where it is not said.
        is_proxy: Whether it is not the registry's own, so that it is told whose images are
            wanted (``?ns=<registry>``), and no credentials of the registry.
        explicit_scheme: Whether ``http`` or ``https`` is written in the file. Otherwise ``url``
            says https, and a caller who knows better may speak plain HTTP.
        tls_first: ``url`` says http, but settings of TLS were given with it: HTTPS is tried, then
            plain HTTP.
    """

    url: str
    capabilities: frozenset[Capability] = frozenset(Capability)
    ca: tuple[Path, ...] = ()
    client: tuple[tuple[Path, Path], ...] = ()
    skip_verify: bool = False
    headers: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: MappingProxyType({}), repr=False, hash=False
    )
    dial_timeout: float | None = None
    is_proxy: bool = False
    explicit_scheme: bool = False
    tls_first: bool = False


def find_hosts(folders: Sequence[Path], registry: str) -> tuple[Host, ...]:
    """What is configured for a registry, read anew each time.

    Only the first folder that holds one for the registry, or one for all, counts.

    Args:
        folders: Like ``/etc/containerd/certs.d``; those that are not there are passed over.
        registry: As references name it.

    Returns:
        In the order in which they are to be asked; the last is the registry itself, or the
        ``server`` in its place. Nothing where nothing is configured for it.

    Raises:
        InvalidConfigurationError: A file or folder cannot be read or understood, or names a file
            that cannot be read.
    """
    folder = _find_folder(folders, registry)
    if folder is None:
        return ()
    file = folder / _FILE
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        data = b""
    except OSError as error:
        raise unreadable(file, error) from None
    if data:
        return _hosts(read_table(data, file), registry)
    found = certificates_in(folder)
    return (Host(own_url(registry), ca=found.ca, client=found.client),) if found else ()


def normalized(address: str, *, override_path: bool = False) -> tuple[str, bool] | None:
    """The URL that an address stands for, and whether it says ``http`` or ``https`` itself.

    Idempotent. The host of Docker Hub becomes the one that speaks its API.

    Returns:
        None when it is no address, or holds more than a scheme, host, port and path.
    """
    parts = _ADDRESS.fullmatch(address)
    if parts is None or int((parts["port"] or ":0")[1:]) > 65535:
        return None
    if parts["v6"] and not _is_ipv6(parts["v6"]):
        return None
    scheme, host = (parts["scheme"] or "https").lower(), parts["host"].lower()
    path = posixpath.normpath(f"/{(parts['path'] or '').lstrip('/')}").rstrip("/")
    if not override_path and not path.endswith("/v2"):
        path += "/v2"
    if host == DEFAULT_REGISTRY:
        host = DEFAULT_API_HOST
    return f"{scheme}://{host}{parts['port'] or ''}{path}", parts["scheme"] is not None


def _find_folder(folders: Sequence[Path], registry: str) -> Path | None:
    host, colon, port = registry.rpartition(":")
    names = [f"{host}_{port}_"] if colon and port.isdecimal() else []
    for folder in folders:
        for name in (*names, registry, _FOR_ALL):
            path = folder / name
            try:
                path.stat()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise unreadable(path, error) from None
            return path.absolute()
    return None


def _hosts(top: Table, registry: str) -> tuple[Host, ...]:
    """The hosts of a file: those of its tables, and the one of its top.

    What the top says of capabilities holds without a ``server`` too; containerd forgets it then.
    """
    top.check_keys(_HOST_KEYS | _TOP_KEYS)
    mirrors, hosts = top.table("host"), []
    for address in mirrors.values:
        table = mirrors.table(address)
        table.check_keys(_HOST_KEYS, _TOP_KEYS)
        hosts.append(_host(table, registry, _url(mirrors, address, address, table)))
    server = top.text("server")
    url = _url(top, "server", server, top) if server else (own_url(registry), False)
    return (*hosts, _host(top, registry, url))


def _url(owner: Table, key: str, address: str, table: Table) -> tuple[str, bool]:
    found = normalized(address, override_path=table.flag("override_path"))
    if found is None:
        raise owner.error(
            key,
            "is not the address of a registry: "
            "write it as https://host:port/path, without a user and a query",
        )
    return found


def _host(table: Table, registry: str, url: tuple[str, bool]) -> Host:
    certificates = named_certificates(table)
    is_plain = url[0].startswith("http:") and urlsplit(url[0]).port != 80
    return Host(
        url[0],
        capabilities=_capabilities(table),
        ca=certificates.ca,
        client=certificates.client,
        skip_verify=table.flag("skip_verify"),
        headers=_headers(table.table("header")),
        dial_timeout=table.seconds("dial_timeout"),
        is_proxy=not _is_same_host(url[0], own_url(registry)),
        explicit_scheme=url[1],
        tls_first=is_plain and not _TLS_KEYS.isdisjoint(table.values),
    )


def _capabilities(table: Table) -> frozenset[Capability]:
    """What is listed; without a list, or with an empty one, everything."""
    names = [name.lower() for name in table.texts("capabilities")]
    if not set(names) <= set(_CAPABILITIES):
        raise table.error(
            "capabilities", f"names another than {', '.join(_CAPABILITIES)}: correct it"
        )
    return frozenset(known for known in Capability if not names or known in names)


def _headers(table: Table) -> Mapping[str, tuple[str, ...]]:
    headers = {}
    for name in table.values:
        headers[name] = tuple(table.texts(name))
        is_one_line = all(text.replace("\t", " ").isprintable() for text in headers[name])
        if not (_HEADER_NAME.fullmatch(name) and is_one_line):
            raise table.error(name, "is not a header that HTTP can send: correct it")
    return MappingProxyType(headers)


def own_url(registry: str) -> str:
    """Where a registry is when nothing is configured for it; whether in TLS is not said."""
    host = DEFAULT_API_HOST if registry == DEFAULT_REGISTRY else registry
    return f"https://{host.lower()}/v2"


def _is_same_host(url: str, own: str) -> bool:
    """Whether two URLs name one host, be the usual port of the first one's scheme said or not."""
    parts = urlsplit(url)
    port = {"https": ":443", "http": ":80"}[parts.scheme]
    return parts.netloc.removesuffix(port) == urlsplit(own).netloc.removesuffix(port)


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True
