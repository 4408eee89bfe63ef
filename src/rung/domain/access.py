"""Who may call: keys, what each of them lets its holder do, and how often.

A key is `rung_ID_SECRET`. The id is public and finds the record; the secret is 256 random bits and shown once. What is
kept is blake2b of the secret, keyed by the id. A slow hash such as bcrypt protects passwords, which people choose and
machines guess; nobody guesses 2^256, so it would only make every first request slow.

Times are seconds since the epoch, but for `Bucket`, which takes those of any one clock.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from hmac import compare_digest
from math import inf, isfinite
from typing import Literal, get_args

import msgspec

from rung.domain.errors import Forbidden, InvalidInput, Unauthenticated

__all__ = [
    "ANY",
    "ID_BYTES",
    "ROLES",
    "SECRET_BYTES",
    "VISITOR",
    "Bucket",
    "Key",
    "Needs",
    "Revocation",
    "Ring",
    "Role",
    "allows",
    "digest_of",
    "in_scope",
    "is_pattern",
    "permit",
    "read_bearer",
    "static_key",
    "write_token",
]

Role = Literal["caller", "viewer", "operator", "deployer", "admin"]
"""What the holder of a key is to the project; each may do what those before it may.

caller    asks models, at once or later, and sends feedback; nothing else on the control API
viewer    sees everything on the control API but keys and the audit log
operator  keeps it running: jobs, taking a release back, picking an arm as a tester
deployer  says which versions answer: releases, rollouts, retrainings, loading and unloading
admin     keys and the audit log
"""
Needs = Literal["open", "caller", "viewer", "operator", "deployer", "admin"]
"""What a route asks for: a role, or nothing at all, as what probes and scrapers ask does."""
ROLES: tuple[Role, ...] = get_args(Role)
ANY = ("*",)
"""The scope of every model."""
VISITOR = "oidc:"
"""Beginning of the id of who comes with a token of an identity provider; no key of ours has such an id."""
ID_BYTES = 5
SECRET_BYTES = 32

_TOKEN = re.compile(r"rung_([a-z2-7]{8})_([a-z2-7]{52})", re.ASCII)
_PATTERN = re.compile(r"[a-z0-9._*?-]{1,63}", re.ASCII)
_NO_KEY = "this key is not known here: ask whoever runs this for one (`rung keys create NAME`)"
_SLOWEST = 1e-6
"""Requests a second: one in eleven days."""
_SLACK = 1e-9
"""Seconds; far below any interval, and above what a difference of two clock readings is off by."""


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a key."""

    id: str
    digest: str
    """Of the secret; see `digest_of`."""
    name: str
    """Whose it is, for people."""
    role: Role = "caller"
    models: tuple[str, ...] = ANY
    """Names of the models it is for; `*` stands for any letters, `?` for one."""
    created: float = 0.0
    by: str = ""
    """Who made it."""
    expires: float = 0.0
    """0: never."""
    rate: float = 0.0
    """Requests a second on the data port; 0: no limit."""
    burst: int = 0
    """Requests at once; 0: those of one second, and at least one."""
    quota: int = 0
    """Requests a day (UTC) on the data port; 0: no limit."""
    format: int = 1

    @property
    def at_once(self) -> int:
        """The burst that counts."""
        return self.burst or max(1, int(self.rate))

    def checked(self) -> "Key":
        """This key, if its fields make sense together.

        Raises:
            InvalidInput: saying which does not.
        """
        if not (self.name and self.name.isprintable() and len(self.name) <= 100 and self.name.strip() == self.name):
            raise InvalidInput(f"{self.name!r:.80} cannot name a key: use 1 to 100 printable letters", field="name")
        wrong = [pattern for pattern in self.models if not is_pattern(pattern)]
        if wrong or not self.models:
            shown = wrong[0] if wrong else ""
            raise InvalidInput(
                f"{shown!r:.80} is none of the models' names, nor a pattern such as `cells-*`", field="models"
            )
        if self.role == "admin" and self.models != ANY:
            raise InvalidInput(
                "an admin's key is for every model: keys and the audit log are of them all", field="models"
            )
        if not (isfinite(self.rate) and (self.rate == 0 or self.rate >= _SLOWEST) and min(self.burst, self.quota) >= 0):
            raise InvalidInput("rate, burst and quota are numbers from 0; 0 is no limit", field="rate")
        if self.burst and not self.rate:
            raise InvalidInput("a burst goes with a rate: say how many requests a second", field="burst")
        if self.expires and self.expires <= self.created:
            raise InvalidInput("the key would have expired before it is made", field="expires")
        return self


_WORKERS = Key(id="workers", digest="", name="workers")
"""What the project's own workers are to its replicas."""


class Revocation(msgspec.Struct, frozen=True, kw_only=True):
    """That a key is no longer one."""

    id: str
    at: float
    by: str = ""
    reason: str = ""


class Ring:
    """Every key there is, as of one look at where they lie. Not to be changed.

    A door that nobody has made a key for is open: the data port until there is a key of a caller, the control API until
    there is one of more than that. Revoked and expired keys count, so that no door opens again by their end; so do
    files that cannot be read, for both doors, and an identity provider, whose tokens `tokens` reads.
    """

    def __init__(
        self,
        keys: Iterable[Key] = (),
        revoked: Iterable[Revocation] = (),
        *,
        unreadable: Iterable[str] = (),
        static: Iterable[str] = (),
        workers: Iterable[str] = (),
        tokens: Callable[[str, float], Key] | None = None,
    ) -> None:
        self.keys: Mapping[str, Key] = {key.id: key for key in keys}
        self.revoked: Mapping[str, Revocation] = {one.id: one for one in revoked}
        self.unreadable = tuple(unreadable)
        """What is wrong with files that hold no key."""
        # Digests have one length, so that comparing them takes one time.
        self._static = {hashlib.sha256(text.encode()).digest(): static_key(text) for text in static}
        guarded = bool(self._static)
        # The project's own, which shut no door.
        self._static |= {hashlib.sha256(text.encode()).digest(): _WORKERS for text in workers}
        self._tokens = tokens
        roles = {key.role for key in self.keys.values()}
        closed = bool(self.unreadable) or tokens is not None
        self.guards_data = "caller" in roles or closed
        self.guards_control = bool(roles - {"caller"}) or closed or guarded

    def find(self, token: str, now: float) -> Key:
        """The key that `token` is.

        Raises:
            Unauthenticated: it is none, or none any more; the message says why to whoever knows the secret.
            Forbidden: it is a token that gives no right here.
            NotReady: no token can be told from another yet.
        """
        digest = hashlib.sha256(token.encode(errors="surrogateescape")).digest()
        # Every one is compared, so that the time says nothing about which.
        matches = [key for known, key in self._static.items() if compare_digest(digest, known)]
        if matches:
            return matches[0]
        parts = _TOKEN.fullmatch(token)
        if parts is None and self._tokens is not None and "." in token:
            return self._tokens(token, now)
        if parts is None:
            raise Unauthenticated(_NO_KEY if token else "")
        key = self.keys.get(parts[1])
        if (
            not compare_digest(digest_of(*parts.groups()), key.digest if key else digest_of(parts[1], ""))
            or key is None
        ):
            raise Unauthenticated(_NO_KEY)
        if why := self.why_not(key, now):
            raise Unauthenticated(why)
        return key

    def why_not(self, key: Key, now: float) -> str:
        """Why a key is none any more; empty for one that is. Of a token's, only whether tokens are taken."""
        if key.id.startswith(VISITOR):
            return "" if self._tokens is not None else "tokens are no longer taken here"
        if key.id not in self.keys and key not in self._static.values():
            return f"the key {key.name!r} ({key.id}) is no longer here"
        if key.id in self.revoked:
            return f"the key {key.name!r} ({key.id}) has been revoked"
        if key.expires and now >= key.expires:
            return f"the key {key.name!r} ({key.id}) has expired"
        return ""


class Bucket:
    """Lets through `burst` calls at once and `rate` a second in the long run: the generic cell rate algorithm
    (ITU-T I.371), which is a token bucket in one number.
    """

    __slots__ = ("_due", "_interval", "_tolerance")

    def __init__(self, rate: float, burst: int) -> None:
        self._due = -inf
        """When the bucket will be full."""
        self.pace(rate, burst)

    def pace(self, rate: float, burst: int) -> None:
        """Go on at another rate, with what is left."""
        self._interval = 1.0 / rate
        self._tolerance = (max(burst, 1) - 1) * self._interval + _SLACK

    def take(self, now: float) -> float:
        """Let a call through: 0; or the seconds after which the next would be, if nothing comes before."""
        due = max(self._due, now)
        wait = due - now - self._tolerance
        if wait > 0.0:
            return wait
        self._due = due + self._interval
        return 0.0


def is_pattern(text: str) -> bool:
    """Whether this can name models: letters that a name may have, `*` and `?`."""
    return _PATTERN.fullmatch(text) is not None


def allows(role: Role, needs: Needs) -> bool:
    """Whether a role is enough."""
    return needs == "open" or ROLES.index(role) >= ROLES.index(needs)


def in_scope(models: tuple[str, ...], model: str) -> bool:
    """Whether a key for these models is for this one."""
    return models == ANY or any(fnmatchcase(model, pattern) for pattern in models)


def permit(key: Key, needs: Needs, model: str | None) -> None:
    """Let a key through that is enough for what a route needs, and for the model that it is about, if any.

    Raises:
        Forbidden: saying what is missing.
    """
    if not allows(key.role, needs):
        raise Forbidden(f"this takes the role {needs}, and the key {key.name!r} has the role {key.role}")
    if model is not None and not in_scope(key.models, model):
        raise Forbidden(f"the key {key.name!r} is not for the model {model!r:.80}: it is for {', '.join(key.models)}")


def digest_of(key_id: str, secret: str) -> str:
    """What is kept of a secret, in hexadecimal."""
    return hashlib.blake2b(secret.encode(), key=key_id.encode(), digest_size=32, person=b"rung key").hexdigest()


def write_token(id_bytes: bytes, secret_bytes: bytes) -> tuple[str, str, str]:
    """The text of a key, its id, and its digest, from `ID_BYTES` and `SECRET_BYTES` random bytes."""
    key_id, secret = _letters(id_bytes), _letters(secret_bytes)
    return f"rung_{key_id}_{secret}", key_id, digest_of(key_id, secret)


def _letters(data: bytes) -> str:
    """Base 32 (RFC 4648) in small letters: a double click takes it whole."""
    from base64 import b32encode

    return b32encode(data).rstrip(b"=").decode().lower()


def static_key(text: str) -> Key:
    """An admin's key out of the settings."""
    name = f"setting-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return Key(id=name, digest="", name=name, role="admin")


def read_bearer(headers: Mapping[bytes, bytes]) -> str:
    """The key in `authorization: Bearer KEY` or `x-api-key: KEY`; empty where there is none."""
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() != b"bearer":
        token = headers.get(b"x-api-key", b"")
    return token.strip().decode("latin-1")
