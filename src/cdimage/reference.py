"""Image references: ``[registry/]repository[:tag][@digest]``.

The grammar is that of github.com/distribution/reference v0.6.0 (``reference.go``), with the
short forms that people type: ``debian`` is ``docker.io/library/debian``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from cdimage.digest import Digest
from cdimage.errors import InvalidReferenceError

_COMPONENT: Final = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_LABEL: Final = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST: Final = re.compile(
    rf"(?:{_LABEL}(?:\.{_LABEL})*|\[(?P<v6>[a-fA-F0-9:]+)\])(?::(?P<port>[0-9]{{1,5}}))?"
)
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_NAME_LIMIT: Final = 255
_ENDS_IN_DIGEST: Final = re.compile(r"@sha(256|512):[^@/:]*$")
_DRIVE: Final = re.compile(r"[A-Za-z]:[\\/]")

DEFAULT_REGISTRY: Final = "docker.io"
TRANSPORTS: Final = ("docker-archive", "oci-archive", "oci", "containerd")
"""What a reference may begin with, and a colon, to name an image that is in no registry."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed image reference. With a tag and a digest, the digest is what counts.

    An image in no registry is named as by containers-transports(5):
    ``docker-archive:FILE[:NAME]``, ``oci-archive:FILE[:TAG]``, ``oci:DIR[:TAG]`` and
    ``containerd:NAME``, each with ``@DIGEST`` or without. No colon may be in a path, but for the
    one of a Windows drive.

    Attributes:
        registry: Host and optional port, as ``docker.io`` or ``localhost:5000``; "" for none.
        repository: The path on that host, as ``library/debian``; that of a file or a directory;
            or the name of an image record.
        tag: Or None. In a ``docker save`` archive, a whole name.
        digest: Or None.
        transport: One of `TRANSPORTS`; "" for a registry.
    """

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None
    transport: str = ""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a reference.

        Raises:
            InvalidReferenceError: It is not one; the message says which part is wrong.
        """
        transport, colon, rest = text.partition(":")
        if colon and transport in TRANSPORTS:
            return _parse_transport(text, transport, rest)
        name, at, digest = text.partition("@")
        head, colon, tag = name.rpartition(":")
        if not colon or "/" in tag:
            head, tag = name, ""
        if colon and not tag and "/" not in name.rpartition(":")[2]:
            raise _invalid(text, "the tag after ':' is empty")
        if tag and not _TAG.fullmatch(tag):
            raise _invalid(text, f"{tag!r} is not a tag")
        registry, repository = _split(head)
        if not _is_host(registry):
            raise _invalid(text, f"{registry!r} is not a registry's host")
        if not _PATH.fullmatch(repository):
            raise _invalid(text, _why_not_a_path(repository))
        if len(registry) + 1 + len(repository) > _NAME_LIMIT:
            raise _invalid(text, f"the name is longer than {_NAME_LIMIT} characters")
        return cls(registry, repository, tag or None, Digest.parse(digest) if at else None)

    @property
    def name(self) -> str:
        """Registry and repository, or transport and path, without tag or digest."""
        if self.transport:
            return f"{self.transport}:{self.repository}"
        return f"{self.registry}/{self.repository}"

    @property
    def is_bare(self) -> bool:
        """Whether it names a place only, and no image in it."""
        return self.tag is None and self.digest is None and self.transport != "containerd"

    def at(self, digest: Digest) -> Reference:
        """The same image, named by a digest alone."""
        return replace(self, tag=None, digest=digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"


def _is_host(text: str) -> bool:
    """Whether it is a name or an address, perhaps with a port."""
    found = _HOST.fullmatch(text)
    if found is None or int(found["port"] or 0) > 65535:
        return False
    import ipaddress  # noqa: PLC0415 - few hosts are addresses

    try:
        return not found["v6"] or bool(ipaddress.IPv6Address(found["v6"]))
    except ValueError:
        return False


def _parse_transport(text: str, transport: str, rest: str) -> Reference:
    name, at, digest = rest.rpartition("@") if _ENDS_IN_DIGEST.search(rest) else (rest, "", "")
    drive, path = (name[:2], name[2:]) if _DRIVE.match(name) else ("", name)
    tag = ""
    if transport != "containerd":
        path, colon, tag = path.partition(":")
        if colon and not tag:
            raise _invalid(text, "the tag after ':' is empty")
    if not path or "\0" in path:
        raise _invalid(text, f"{transport}: is followed by no name")
    parsed = Digest.parse(digest) if at else None
    return Reference("", drive + path, tag or None, parsed, transport)


def _split(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if not slash or not (set(first) & set(".:[") or first == "localhost" or first != first.lower()):
        first, rest = DEFAULT_REGISTRY, name
    if first == f"index.{DEFAULT_REGISTRY}":
        first = DEFAULT_REGISTRY
    if first == DEFAULT_REGISTRY and "/" not in rest:
        rest = f"library/{rest}"
    return first, rest


def _why_not_a_path(repository: str) -> str:
    if repository.removeprefix("library/") == "":
        return "the repository is empty"
    if repository != repository.lower():
        return "a repository is written in lower case"
    return f"{repository!r} is not a repository"


def _invalid(text: str, why: str) -> InvalidReferenceError:
    shown = text if len(text) <= _NAME_LIMIT else text[:_NAME_LIMIT] + "…"
    return InvalidReferenceError(f"{shown!r} is not an image reference: {why}")
