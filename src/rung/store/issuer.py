"""The keys of an identity provider, and whether a token was signed by one of them.

Keys are fetched by a thread of its own: a request is judged by those that are there, and waits for nobody.
"""

import base64
import hashlib
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
import structlog

from rung.domain.access import Key
from rung.domain.errors import MissingDependency, NotReady, Unauthenticated
from rung.domain.tokens import TokenRules, key_of
from rung.settings import OidcSettings, check_url

__all__ = ["Issuer", "fetch_keys"]

_PATIENCE = 5.0
"""Seconds that the provider gets to answer."""
_FIRST = 2.0
"""Seconds for which a start waits for the first keys."""
_LEAST = 5.0
"""Seconds between two fetches that unknown keys ask for, so that strangers cannot have us ask without end."""
_AGAIN = 10.0
"""Seconds after a fetch that failed."""
_LARGEST = 1 << 20
_LONGEST_TOKEN = 16 << 10
_LONGEST_HEADER = 4096
_REMEMBERED = 4096
_SMALLEST_RSA = 2048
"""Bits of a modulus."""
_UNKNOWN = "this token was signed with a key that the issuer does not name"
_NONE = "this is neither a key that is known here nor a token of the issuer"
_Keys = Mapping[str, Any]


class Issuer:
    """An identity provider whose tokens are taken."""

    def __init__(self, settings: OidcSettings, fetch: Callable[[OidcSettings], _Keys] | None = None) -> None:
        self._settings = settings
        self._fetch = fetch or fetch_keys
        self._rules = TokenRules(
            issuer=settings.issuer,
            audience=settings.audience,
            leeway=settings.leeway_seconds,
            role_claim=settings.role_claim,
            roles=settings.roles,
            model_claim=settings.model_claim,
            models=settings.models,
            name_claim=settings.name_claim,
        )
        self.edition = 0
        """Counts how often the keys have changed."""
        self._keys: _Keys | None = None
        self._found: dict[bytes, Key] = {}
        """Digests of tokens whose signature has been checked with these keys."""
        self._why = "the issuer's keys have not been fetched yet"
        self._wake, self._first, self._end = threading.Event(), threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._log = structlog.get_logger("rung.access")

    def open(self) -> None:
        """Begin to fetch, and wait a moment for the first keys. An issuer that is away is no reason not to start.

        Raises:
            MissingDependency: the extra `oidc` is not installed.
        """
        try:
            # Now and not at the first token: it takes longer than a request should.
            from joserfc import jws  # noqa: F401
        except ImportError:
            raise MissingDependency("tokens of an issuer need joserfc: pip install 'rung[oidc]'") from None
        self._thread = threading.Thread(target=self._live, name="rung-issuer", daemon=True)
        self._thread.start()
        self._first.wait(_FIRST)

    def close(self) -> None:
        """Fetch no more."""
        self._end.set()
        self._wake.set()

    def find(self, token: str, now: float) -> Key:
        """The key that a token stands for.

        Raises:
            Unauthenticated, Forbidden: it is none, or gives no right here.
            NotReady: the issuer's keys are not there yet.
        """
        digest = hashlib.sha256(token.encode(errors="surrogateescape")).digest()
        found = self._found
        known = found.get(digest)
        if known is not None and now < known.expires:
            return known
        key = key_of(self._verified(token), self._rules, now)
        if len(found) >= _REMEMBERED:
            found.clear()
        # Into what there was before: if the keys have changed meanwhile, it is forgotten with the rest.
        found[digest] = key
        return key

    def _verified(self, token: str) -> dict[str, Any]:
        """The claims of a token that the issuer signed."""
        header = _header(token)
        algorithm, name = header.get("alg"), header.get("kid")
        if algorithm not in self._settings.algorithms:
            raise Unauthenticated(f"a token signed by {algorithm!r:.20} is not taken here")
        keys = self._keys
        if keys is None:
            raise NotReady(self._why)
        if name is None and len(keys) == 1:
            key = next(iter(keys.values()))
        else:
            key = keys.get(name) if isinstance(name, str) else None
        if key is None:
            self._wake.set()
            raise Unauthenticated(_UNKNOWN)
        from joserfc import jws

        registry = jws.JWSRegistry(algorithms=[algorithm], strict_check_header=False)
        registry.max_header_length, registry.max_payload_length = _LONGEST_HEADER, _LONGEST_TOKEN
        try:
            signed = jws.deserialize_compact(token, key, registry=registry)
            return msgspec.json.decode(signed.payload or b"", type=dict[str, Any])
        # Whatever it is that a stranger's bytes bring about in a library: it is no token of the issuer.
        except Exception:  # noqa: BLE001
            raise Unauthenticated("this token's signature is not the issuer's") from None

    # --- the issuer's keys --------------------------------------------------------------------

    def _live(self) -> None:
        while not self._end.is_set():
            wait = self._turn()
            self._first.set()
            began = time.monotonic()
            self._wake.wait(wait)
            # Whoever asked for another key may have made its name up.
            self._end.wait(max(min(_LEAST, wait) - (time.monotonic() - began), 0.0))
            self._wake.clear()

    def _turn(self) -> float:
        """Fetch once; seconds until the next time."""
        try:
            keys = self._fetch(self._settings)
        # A library's error must not end the thread: the keys that there are go on counting.
        except Exception as error:  # noqa: BLE001
            why = f"the keys of {self._settings.issuer} cannot be fetched: {error or type(error).__name__}"
            if why != self._why:
                self._why = why
                self._log.warning("the issuer's keys cannot be fetched", action="issuer_away", reason=str(error))
            return min(_AGAIN, self._settings.refresh_seconds)
        self._why = ""
        if self._keys is None or _names(keys) != _names(self._keys):
            self._keys, self._found = keys, {}
            self.edition += 1
            self._log.info("the issuer's keys were fetched", action="issuer_keys", keys=sorted(keys))
        return self._settings.refresh_seconds


def fetch_keys(settings: OidcSettings) -> _Keys:
    """The issuer's public keys for signatures, by their names.

    Raises:
        OSError: it does not answer.
        ValueError: what it says is not as OpenID Connect has it.
    """
    from joserfc.jwk import import_key

    place = settings.jwks
    if not place:
        said = _get(f"{settings.issuer.rstrip('/')}/.well-known/openid-configuration")
        if said.get("issuer") != settings.issuer:
            raise ValueError(f"it calls itself {said.get('issuer')!r:.100}, which is not as `issuer` has it")
        place = str(said.get("jwks_uri", ""))
        if not check_url(place):
            raise ValueError(f"its keys lie at {place!r:.100}, which is no https URL")
    listed = _get(place).get("keys")
    found: dict[str, Any] = {}
    for one in listed if isinstance(listed, list) else []:
        if isinstance(one, dict) and _signs(one, settings.algorithms):
            key = import_key({name: value for name, value in one.items() if name in _PUBLIC})
            found[str(one.get("kid", ""))] = key
    if not found:
        raise ValueError(f"there is no key at {place} that signs by {', '.join(settings.algorithms)}")
    return found


_PUBLIC = frozenset({"kty", "kid", "use", "alg", "n", "e", "crv", "x", "y"})
"""Of what a key says: never a private part, should an issuer show one."""
_FAMILY = {"RSA": ("RS", "PS"), "EC": ("ES",), "OKP": ("Ed",)}


def _signs(key: Mapping[str, Any], algorithms: tuple[str, ...]) -> bool:
    """Whether this is a key for signatures by one of these algorithms. Never a secret one (`oct`)."""
    if key.get("use", "sig") != "sig" or ("alg" in key and key["alg"] not in algorithms):
        return False
    # A letter of base64 is six bits.
    if key.get("kty") == "RSA" and 6 * len(str(key.get("n", ""))) < _SMALLEST_RSA:
        return False
    return any(name.startswith(_FAMILY.get(str(key.get("kty")), ("?",))) for name in algorithms)


def _names(keys: _Keys) -> dict[str, Any]:
    return {name: key.as_dict() for name, key in keys.items()}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Keys come from where the settings say, and from nowhere else."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _get(url: str) -> dict[str, Any]:
    local = urlsplit(url).scheme == "http"  # that is this machine, which no proxy is asked about
    handlers: list[Any] = [_NoRedirect, *([urllib.request.ProxyHandler({})] if local else [])]
    with urllib.request.build_opener(*handlers).open(url, timeout=_PATIENCE) as reply:
        body = reply.read(_LARGEST + 1)
    if len(body) > _LARGEST:
        raise ValueError(f"{url} gives more than {_LARGEST} bytes")
    return msgspec.json.decode(body, type=dict[str, Any])


def _header(token: str) -> dict[str, Any]:
    parts = token.split(".")
    if len(parts) != 3 or len(token) > _LONGEST_TOKEN or not token.isascii():
        raise Unauthenticated(_NONE)
    try:
        text = base64.urlsafe_b64decode(parts[0] + "=" * (-len(parts[0]) % 4))
        header = msgspec.json.decode(text, type=dict[str, Any])
    except (ValueError, msgspec.MsgspecError):
        raise Unauthenticated(_NONE) from None
    if "crit" in header:
        raise Unauthenticated("this token says that something must be understood which is not known here (`crit`)")
    return header
