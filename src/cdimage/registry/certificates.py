"""Whose certificates a registry may show, and which ones it is shown: files in PEM.

Named by a ``hosts.toml``, or laid out as Docker's daemon has them, ``certs.d`` in
docs.docker.com/engine/security/certificates.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdimage.errors import InvalidConfigurationError
from cdimage.registry.table import Table, reason, unreadable


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files that are there and can be read; that they hold what they should is not checked.

    Attributes:
        ca: Who may sign for the registry, besides those whom this machine trusts.
        client: Pairs of a certificate and its key, which may be the same file.
    """

    ca: tuple[Path, ...] = ()
    client: tuple[tuple[Path, Path], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.ca or self.client)


def named_certificates(table: Table) -> Certificates:
    """The files under ``ca`` and ``client``, whose paths are relative to the file's folder.

    Raises:
        InvalidConfigurationError: One is not there or cannot be read.
    """
    ca = tuple(_named_file(table, "ca", name) for name in table.texts("ca"))
    return Certificates(ca, tuple(_pair(table, entry) for entry in table.items("client")))


def certificates_in(folder: Path) -> Certificates:
    """The files of a folder: ``*.crt`` is a CA, ``*.cert`` a client's, ``*.key`` its key.

    Without a key beside it, the certificate's file holds that too.

    Raises:
        InvalidConfigurationError: The folder or one of the files cannot be read.
    """
    try:
        files = sorted(path for path in folder.iterdir() if not path.is_dir())
    except OSError as error:
        raise unreadable(folder, error) from None
    certificates = [path for path in files if path.suffix == ".cert"]
    pairs = [(path, path.with_suffix(".key")) for path in certificates]
    found = Certificates(
        tuple(path for path in files if path.suffix == ".crt"),
        tuple((path, key if key in files else path) for path, key in pairs),
    )
    for path in (*found.ca, *(path for pair in found.client for path in pair)):
        try:
            _try_reading(path)
        except OSError as error:
            raise unreadable(path, error) from None
    return found


def _pair(table: Table, entry: Any) -> tuple[Path, Path]:
    """One entry of ``client``: a file of both, or a list of a certificate and a key."""
    match entry:
        case str(certificate) | [str(certificate), ""]:
            path = _named_file(table, "client", certificate)
            return path, path
        case [str(certificate), str(key)]:
            path = _named_file(table, "client", certificate)
            return path, _named_file(table, "client", key)
    raise table.error(
        "client", "is not a file, nor a list of files or of pairs [certificate, key]: correct it"
    )


def _named_file(table: Table, key: str, name: str) -> Path:
    path = table.file.parent / name
    try:
        _try_reading(path)
    except (OSError, ValueError) as error:
        raise _missing(table, key, path, reason(error)) from None
    return path


def _try_reading(path: Path) -> None:
    path.open("rb").close()


def _missing(table: Table, key: str, path: Path, why: str) -> InvalidConfigurationError:
    shown = str(path) if str(path).isprintable() else repr(str(path))
    return table.error(
        key, f"names {shown}, which cannot be read ({why}): correct the path, or bring the file"
    )
