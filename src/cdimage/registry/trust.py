"""Whose certificates are believed, and which ones we show."""

from __future__ import annotations

import ssl
from pathlib import Path

from cdimage.errors import InvalidConfigurationError


def ssl_context(
    ca: tuple[Path, ...], client: tuple[tuple[Path, Path], ...], *, skip_verify: bool
) -> ssl.SSLContext:
    """What a connection over TLS needs.

    Args:
        ca: Files of certificates that are believed beside those of this machine.
        client: Files of our own certificate and its key.
        skip_verify: Believe everybody.

    Raises:
        InvalidConfigurationError: A file is none of certificates.
    """
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if skip_verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for path in ca:
        try:
            context.load_verify_locations(path)
        except (ssl.SSLError, OSError) as error:
            raise _unusable(path, "holds no certificates in PEM", error) from None
    for certificate, key in client:
        try:
            context.load_cert_chain(certificate, key, password=_no_password)
        except (ssl.SSLError, OSError, ValueError) as error:
            why = f"and its key {key} are not a pair in PEM without a password"
            raise _unusable(certificate, why, error) from None
    return context


def _no_password() -> str:
    """Asked for a key that has one; without it, the terminal would be asked."""
    return ""


def _unusable(path: Path, why: str, error: Exception) -> InvalidConfigurationError:
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
        why = f"cannot be read ({error.strerror})"
    return InvalidConfigurationError(f"the certificate {path} {why}: correct it")
