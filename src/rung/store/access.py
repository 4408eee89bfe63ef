"""Keys where every process of a project finds them: create-only files, without a database.

    keys/ID.json       a `Key`: who, what for, and the digest of the secret
    revoked/ID.json    a `Revocation`
    spent/NAME.json    what one replica has let through today of keys with a quota, and claims

A key is never changed or removed, so a look at the names says what is new. On a disk or in a bucket alike.
"""

import secrets
from collections.abc import Iterable
from threading import Lock
from typing import TYPE_CHECKING, TypedDict, Unpack

import msgspec

from rung.domain.access import ID_BYTES, SECRET_BYTES, Key, Revocation, Ring, Role, write_token
from rung.domain.errors import Conflict, InvalidInput, NotFound
from rung.domain.quotas import Others
from rung.ports import BlobStore

if TYPE_CHECKING:
    from rung.store.issuer import Issuer

__all__ = ["KeyStore", "Spent"]

_KEYS, _REVOKED, _SPENT = "keys", "revoked", "spent"
_encode = msgspec.json.Encoder(order="sorted").encode


class _Terms(TypedDict, total=False):
    """What a key is for; as the fields of `Key`, with the same defaults."""

    role: Role
    models: tuple[str, ...]
    expires: float
    rate: float
    burst: int
    quota: int


class Spent(msgspec.Struct):
    """What one replica has let through on one day."""

    day: int
    """Days since the epoch, UTC."""
    requests: dict[str, int] = {}
    """Id of a key -> requests."""
    claims: dict[str, int] = {}
    """Id of a key -> requests up to which it may go."""


class KeyStore:
    """The keys of a project.

    `static` are those out of its settings, `workers` that of its own workers. Of an `issuer`, which somebody else opens
    and closes, tokens are taken.
    """

    def __init__(
        self,
        store: BlobStore,
        static: Iterable[str] = (),
        *,
        workers: Iterable[str] = (),
        issuer: "Issuer | None" = None,
    ) -> None:
        self._store = store
        self._issuer = issuer
        self._edition = -1
        """Of the issuer's keys."""
        self._static = tuple(static)
        self._workers = tuple(workers)
        self._lock = Lock()
        self._read: dict[str, Key | Revocation | str] = {}
        """What was read before: files do not change. A text says what is wrong with one."""
        self._ring: Ring | None = None
        self._others: dict[str, tuple[str, Spent]] = {}
        """Another replica's file -> its tag, and what it said."""

    def create(
        self,
        name: str,
        *,
        at: float,
        by: str,
        **terms: Unpack[_Terms],
    ) -> tuple[str, Key]:
        """Make a key: its text, which is kept nowhere, and what is kept.

        Raises:
            InvalidInput: the fields do not make sense.
            Conflict: a key of this name is in force.
        """
        taken = [key for key in self.ring().keys.values() if key.name == name and not self.ring().why_not(key, at)]
        if taken:
            raise Conflict(f"there is a key {name!r} ({taken[0].id}) already: revoke it first, or take another name")
        token, key_id, digest = write_token(secrets.token_bytes(ID_BYTES), secrets.token_bytes(SECRET_BYTES))
        key = Key(id=key_id, digest=digest, name=name, created=at, by=by, **terms).checked()
        self._store.put(f"{_KEYS}/{key.id}.json", _encode(key), create=True)
        return token, key

    def revoke(self, name: str, *, at: float, by: str, reason: str = "") -> Key:
        """End a key, named by its id or its name. Of one that has ended already, it stays as it was.

        Raises:
            NotFound: there is no such key.
        """
        ring = self.ring()
        named = [key for key in ring.keys.values() if key.name == name]
        # Of one name only one is in force, and it is the last.
        key = ring.keys.get(name) or max(named, key=lambda one: (one.id not in ring.revoked, one.created), default=None)
        if key is None:
            raise NotFound(f"there is no key {name!r:.80}: `rung keys list` shows them")
        try:
            revocation = Revocation(id=key.id, at=at, by=by, reason=reason)
            self._store.put(f"{_REVOKED}/{key.id}.json", _encode(revocation), create=True)
        except Conflict:
            pass
        return key

    def ring(self) -> Ring:
        """All keys as they are now. The same object as long as nothing has changed.

        Raises:
            NotReady, ConfigurationError, OSError: the store cannot be read.
        """
        with self._lock:
            names = [blob.key for folder in (_KEYS, _REVOKED) for blob in self._store.list(folder)]
            fresh = [name for name in names if name not in self._read]
            edition = self._issuer.edition if self._issuer is not None else -1
            # A new ring has everything looked at again that was let in by the old one.
            if fresh or len(names) != len(self._read) or self._ring is None or edition != self._edition:
                self._edition = edition
                self._read = {name: self._read.get(name) or self._load(name) for name in names}
                found = self._read.values()
                self._ring = Ring(
                    (one for one in found if isinstance(one, Key)),
                    (one for one in found if isinstance(one, Revocation)),
                    unreadable=(one for one in found if isinstance(one, str)),
                    static=self._static,
                    tokens=self._issuer.find if self._issuer is not None else None,
                    workers=self._workers,
                )
            return self._ring

    def _load(self, name: str) -> Key | Revocation | str:
        folder, _, rest = name.partition("/")
        key_id = rest.removesuffix(".json")
        try:
            if folder == _REVOKED:
                found = msgspec.json.decode(self._store.get(name), type=Revocation)
                return msgspec.structs.replace(found, id=key_id)
            key = msgspec.json.decode(self._store.get(name), type=Key).checked()
        except (msgspec.MsgspecError, UnicodeDecodeError, InvalidInput, NotFound) as error:
            # The name alone ends a key.
            return Revocation(id=key_id, at=0.0) if folder == _REVOKED else f"{name} holds no key: {error}"
        return key if key.id == key_id else f"{name} says that it is {key.id!r:.40}"

    # --- quotas -------------------------------------------------------------------------------

    def spend(self, replica: str, mine: Spent | None, day: int) -> tuple[int, dict[str, Others]]:
        """Write what this replica has let through and claims (None: nothing new), then read what the others have.

        Returns:
            How many others there are today, and what they have said together, by the id of a key.
        """
        own = f"{_SPENT}/{replica}.json"
        if mine is not None:
            self._store.put(own, _encode(mine))
        for blob in self._store.list(_SPENT):
            if blob.key != own and self._others.get(blob.key, ("",))[0] != blob.tag:
                self._others[blob.key] = (blob.tag, self._spent(blob.key))
        # Those that were there before count although a look missed them: what they claimed they may go on using.
        others = [said for _, said in self._others.values() if said.day == day]
        total: dict[str, Others] = {}
        for said in others:
            _add(total, said)
        return len(others), total

    def spent(self, replica: str) -> Spent:
        """What this replica wrote last, before it was started again."""
        return self._spent(f"{_SPENT}/{replica}.json")

    def _spent(self, name: str) -> Spent:
        try:
            return msgspec.json.decode(self._store.get(name), type=Spent)
        except (NotFound, msgspec.MsgspecError, UnicodeDecodeError):
            return Spent(0)


def _add(total: dict[str, Others], said: Spent) -> None:
    for key in said.requests.keys() | said.claims.keys():
        spent = said.requests.get(key, 0)
        before = total.get(key, Others())
        # A claim is never less than what was let through; a replica of an earlier release says none.
        claimed = max(said.claims.get(key, 0), spent)
        total[key] = Others(before.spent + spent, before.claimed + claimed)
