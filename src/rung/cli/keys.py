"""Making, listing and ending keys from the command line."""

import functools
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from rung.cli.auditing import whoami
from rung.cli.printing import print_json, print_table
from rung.domain.access import ANY, Key, Ring, Role
from rung.domain.errors import ConfigurationError
from rung.settings import load
from rung.settings.file import FILE, load_project
from rung.settings.scaling import parse_duration
from rung.store.access import KeyStore
from rung.store.blobs import open_store

__all__ = ["Wanted", "create", "list_keys", "revoke"]


class Wanted(msgspec.Struct, frozen=True):
    """What the flags of `rung keys create` say."""

    name: str
    role: Role
    models: tuple[str, ...]
    expires: str
    rate: float
    burst: int
    quota: int


def create(store: str, wanted: Wanted, *, as_json: bool) -> None:
    """Make a key, and say what has changed for whoever has none.

    Raises:
        InvalidInput: the flags do not make sense together.
        Conflict: a key of this name is in force.
        ConfigurationError: `--expires` is no span, or the store cannot be used.
    """
    keys, now = _open(store), time.time()
    before = keys.ring()
    token, key = keys.create(
        wanted.name,
        at=now,
        by=whoami(),
        role=wanted.role,
        models=wanted.models or ANY,
        expires=now + _span(wanted.expires) if wanted.expires else 0.0,
        rate=wanted.rate,
        burst=wanted.burst,
        quota=wanted.quota,
    )
    if as_json:
        print_json({"key": token, **_plain(key, keys.ring(), now)})
        return
    print(token)
    # Beside it, so that KEY=$(rung keys create NAME) holds the key alone.
    say = functools.partial(print, file=sys.stderr)
    say(f"the key of {key.name} ({key.id}), {key.role} for {_models(key)}; it is not shown again")
    after = keys.ring()
    if after.guards_data and not before.guards_data:
        say("from now on the data port asks for a key: `Authorization: Bearer KEY` or `x-api-key: KEY`")
    if after.guards_control and not before.guards_control:
        say("from now on the control API asks for a key: `Authorization: Bearer KEY`")
    if not after.guards_data:
        say("the data port asks for none until there is a key of a caller")


def list_keys(store: str, *, everything: bool, as_json: bool) -> None:
    """One line a key."""
    keys, now = _open(store), time.time()
    ring = keys.ring()
    found = [key for key in ring.keys.values() if everything or not ring.why_not(key, now)]
    found.sort(key=lambda key: key.created)
    if as_json:
        print_json([_plain(key, ring, now) for key in found])
        return
    if not found:
        print("no keys: make one with `rung keys create NAME`")
    else:
        print_table(
            ("ID", "NAME", "ROLE", "MODELS", "LIMITS", "MADE (UTC)", "STATE"), [_row(key, ring, now) for key in found]
        )
    for wrong in ring.unreadable:
        print(f"problem: {wrong}")


def revoke(store: str, name: str, because: str) -> None:
    """End a key.

    Raises:
        NotFound: there is none of this name or id.
    """
    key = _open(store).revoke(name, at=time.time(), by=whoami(), reason=because)
    print(f"revoked the key of {key.name} ({key.id}): it is refused everywhere within five seconds")


def _open(store: str) -> KeyStore:
    if not store:
        store = load_project(Path()).serve.key_store if Path(FILE).exists() else load({}).key_store
    return KeyStore(open_store(store))


def _span(text: str) -> float:
    try:
        return parse_duration(text)
    except ConfigurationError:
        raise ConfigurationError(f"--expires {text!r} is no span: write 12h, 90d and the like") from None


def _plain(key: Key, ring: Ring, now: float) -> dict[str, object]:
    shown = msgspec.to_builtins(key)
    del shown["digest"], shown["format"]
    return {**shown, "state": _state(key, ring, now)}


def _row(key: Key, ring: Ring, now: float) -> tuple[str, ...]:
    limits = [f"{key.rate:g}/s, {key.at_once} at once"] if key.rate else []
    limits += [f"{key.quota}/day"] if key.quota else []
    return (
        key.id,
        key.name,
        key.role,
        _models(key),
        ", ".join(limits) or "-",
        _day(key.created),
        _state(key, ring, now),
    )


def _models(key: Key) -> str:
    return "every model" if key.models == ANY else ", ".join(key.models)


def _state(key: Key, ring: Ring, now: float) -> str:
    if ended := ring.revoked.get(key.id):
        why = f": {ended.reason}" if ended.reason else ""
        return f"revoked {_day(ended.at)} by {ended.by or 'somebody'}{why}"
    if ring.why_not(key, now):
        return f"expired {_day(key.expires)}"
    return f"until {_day(key.expires)}" if key.expires else "in force"


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
