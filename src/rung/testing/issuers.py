"""A little identity provider on a port of this machine, to try tokens with: it signs whatever it is told to."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

__all__ = ["LittleIssuer", "little_issuer"]

_RSA_BITS = 2048


class LittleIssuer:
    """Signs tokens and shows its public keys. Needs the extra `oidc`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.keys: dict[str, Any] = {}
        """Name -> key, newest last; all are shown."""
        self.away = False
        """Whether it answers 503 to everybody."""
        self.asked = 0
        """How often its keys were asked for."""

    def rotate(self, algorithm: Literal["RS256", "ES256"] = "RS256", *, keep: bool = True) -> str:
        """Sign with a new key from now on, and show the old ones or not; the name of the new one."""
        from joserfc.jwk import ECKey, RSAKey

        name = f"key-{time.monotonic_ns()}"
        public: Any = {"kid": name, "use": "sig", "alg": algorithm}
        key = RSAKey.generate_key(_RSA_BITS, public) if algorithm == "RS256" else ECKey.generate_key("P-256", public)
        self.keys = {**(self.keys if keep else {}), name: key}
        return name

    def token(self, subject: str = "ana", *, seconds: float = 600.0, header: Any = None, **claims: Any) -> str:
        """A token for `aud` "rung" that expires after so many seconds; claims and header are changed as given."""
        from joserfc import jwt

        name, key = next(reversed(self.keys.items()))
        head = {"alg": key["alg"], "kid": name} | (header or {})
        now = time.time()
        said = {"iss": self.url, "sub": subject, "aud": "rung", "iat": now, "exp": now + seconds} | claims
        return jwt.encode(head, said, key, algorithms=["RS256", "ES256"])

    def jwks(self) -> dict[str, Any]:
        """What it shows of its keys."""
        return {"keys": [key.as_dict(private=False) for key in self.keys.values()]}


@contextmanager
def little_issuer() -> Iterator[LittleIssuer]:
    """An issuer that answers until the end of the block, with one key."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/jwks":
                issuer.asked += 1
            found = {
                "/.well-known/openid-configuration": {"issuer": issuer.url, "jwks_uri": f"{issuer.url}/jwks"},
                "/jwks": issuer.jwks(),
            }.get(self.path)
            body = json.dumps(found).encode()
            self.send_response(503 if issuer.away else 200 if found is not None else 404)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    issuer = LittleIssuer(f"http://127.0.0.1:{server.server_address[1]}")
    issuer.rotate()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
