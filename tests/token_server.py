"""A token service that Debian's docker-registry believes.

Protocol: distribution v2.8, ``docs/spec/auth/token.md`` and ``jwt.md``.
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils


@dataclass
class TokenServer:
    """Gives tokens to whom it knows.

    Attributes:
        authority: Who vouches for what it signs.
        users: The Authorization headers that it accepts.
        seconds: How long a token is good for.
        realm: Its address.
        given: The tokens that it gave.
    """

    authority: trustme.CA
    users: set[str]
    seconds: int = 60
    realm: str = ""
    given: list[str] = field(default_factory=list)

    @contextmanager
    def serving(self) -> Iterator[TokenServer]:
        """Listen on a free port until the end."""
        issued = self.authority.issue_cert("token.example")
        pem = issued.private_key_pem.bytes()
        key = serialization.load_pem_private_key(pem, password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        signer: ec.EllipticCurvePrivateKey = key
        certificate = x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes())
        chain = [base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()]
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = parse_qs(urlsplit(self.path).query)
                is_known = self.headers.get("Authorization") in server.users
                body = server._answer(query, signer, chain) if is_known else b"{}"
                self.send_response(200 if is_known else 401)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Keep quiet."""

        http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.realm = f"http://127.0.0.1:{http.server_port}/token"
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            http.shutdown()
            thread.join()
            http.server_close()

    def _answer(
        self, query: dict[str, list[str]], key: ec.EllipticCurvePrivateKey, chain: list[str]
    ) -> bytes:
        now = int(time.time())
        access = [
            {"type": kind, "name": name, "actions": actions.split(",")}
            for kind, name, actions in (scope.rsplit(":", 2) for scope in query["scope"])
        ]
        claims = {
            "iss": "test", "sub": "somebody", "aud": query["service"][0], "access": access,
            "iat": now, "nbf": now - 5, "exp": now + self.seconds, "jti": secrets.token_hex(8),
        }  # fmt: skip
        header = {"typ": "JWT", "alg": "ES256", "x5c": chain}
        signed = f"{_part(header)}.{_part(claims)}"
        r, s = utils.decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        token = f"{signed}.{_text(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"
        self.given.append(token)
        return json.dumps({"token": token, "expires_in": self.seconds}).encode()


def _part(value: object) -> str:
    return _text(json.dumps(value).encode())


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
