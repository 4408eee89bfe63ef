"""Prediction ids: what was answered, when and by which arm, in 48 characters that nobody else can make.

An id is 36 bytes in the URL-safe base64 alphabet:

    model  2   hash of the model's name: finds the name again among those that are known
    arm    1   0 none, 1 stable, 2 canary, 3 baseline, 4 shadow, 5 `v` and the version
    version 7  epoch 5
    time   6   milliseconds since the epoch
    nonce  5   a counter that each process starts at random
    tag   10   blake2b with the project's key over the model's whole name and all of the above

So feedback is checked without a look-up: an id that verifies was minted by this project for this model.
The tag is 80 bits: guessing one right takes 2^80 tries against a running server. It hides nothing.
"""

import hmac
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Iterable
from hashlib import blake2b
from itertools import count

import msgspec

from rung.domain.errors import ConfigurationError, NotFound

__all__ = ["KEY_BYTES", "LENGTH", "Identity", "Keyring", "Mint", "parse"]

KEY_BYTES = 32
LENGTH = 48
"""Characters of an id."""

Mint = Callable[[float], str]
"""`mint(now)`: a new id; `now` in seconds since the epoch."""

_ARMS = ("", "stable", "canary", "baseline", "shadow")
_SPLIT = len(_ARMS)
_TAG = 10
_HEAD = 15
"""Bytes that are the same for all ids of one arm; a multiple of 3, so that their text is too."""
_TO_URL = bytes.maketrans(b"+/", b"-_")
_FROM_URL = bytes.maketrans(b"-_", b"+/")
_ALPHABET = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


class Identity(msgspec.Struct, frozen=True):
    """What an id says."""

    time: float
    """When the request was taken, seconds since the epoch, to the millisecond."""
    version: int
    arm: str
    epoch: int
    """Of the release that was in force; 0 without one."""
    nonce: int
    hint: bytes
    """Hash of the model's name, 2 bytes."""
    model: str = ""
    """Known after verification."""


class Keyring:
    """Mints and verifies ids with one key.

    Guarantees:
        1. Ids of one process differ; ids of several differ unless they drew the same `start` (2^40 values).
        2. `verify` accepts what `mint` made with the same key, and nothing else but by guessing 80 bits.
    """

    def __init__(self, key: bytes, start: int = 0) -> None:
        if len(key) != KEY_BYTES:
            raise ConfigurationError(f"a key for prediction ids has {KEY_BYTES} bytes, this one has {len(key)}")
        self._base = blake2b(key=key, digest_size=_TAG, person=b"rung-prediction")
        self._counter = count(start & (2**40 - 1))

    def mint(self, model: str, version: int, arm: str = "", epoch: int = 0) -> Mint:
        """Make a function that mints ids for one arm of one version.

        Raises:
            ConfigurationError: no id can carry an arm of this name.
        """
        head = _hint(model) + _arm_code(arm, version) + version.to_bytes(7, "big") + epoch.to_bytes(5, "big")
        begun = self._begin(model, head)
        prefix = b2a_base64(head, newline=False).translate(_TO_URL).decode()
        counter, mask = self._counter, 2**40 - 1

        def mint(now: float) -> str:
            hasher = begun.copy()
            body = ((int(now * 1000) << 40) | (next(counter) & mask)).to_bytes(11, "big")
            hasher.update(body)
            return prefix + b2a_base64(body + hasher.digest(), newline=False).translate(_TO_URL).decode()

        return mint

    def verify(self, text: str, models: Iterable[str]) -> Identity:
        """Read an id that this key minted for one of these models.

        Raises:
            NotFound: it is no id, or its tag is not ours; the message does not say which part is wrong.
        """
        raw, identity = _read(text)
        body, tag = raw[_HEAD:-_TAG], raw[-_TAG:]
        for model in models:
            if _hint(model) != identity.hint:
                continue
            hasher = self._begin(model, raw[:_HEAD])
            hasher.update(body)
            if hmac.compare_digest(hasher.digest(), tag):
                return msgspec.structs.replace(identity, model=model)
        raise NotFound(f"no prediction of a model known here has the id {text!r:.100}")

    def _begin(self, model: str, head: bytes) -> "blake2b":
        hasher = self._base.copy()
        name = model.encode()
        hasher.update(bytes((len(name),)) + name + head)
        return hasher


def parse(text: str) -> Identity:
    """Read what an id says without checking who made it.

    Raises:
        NotFound: it is no prediction id.
    """
    return _read(text)[1]


def _read(text: str) -> tuple[bytes, Identity]:
    if len(text) != LENGTH or not _ALPHABET.issuperset(text):
        raise NotFound(f"{text!r:.100} is no prediction id: those are {LENGTH} characters, as in rung-prediction-id")
    raw = a2b_base64(text.encode().translate(_FROM_URL))
    version = int.from_bytes(raw[3:10], "big")
    if raw[2] > _SPLIT:
        raise NotFound(f"{text!r:.100} is no prediction id: it names no arm that there is")
    arm = f"v{version}" if raw[2] == _SPLIT else _ARMS[raw[2]]
    epoch = int.from_bytes(raw[10:15], "big")
    time, nonce = int.from_bytes(raw[15:21], "big") / 1000, int.from_bytes(raw[21:26], "big")
    return raw, Identity(time, version, arm, epoch, nonce, raw[:2])


def _hint(model: str) -> bytes:
    return blake2b(model.encode(), digest_size=2).digest()


def _arm_code(arm: str, version: int) -> bytes:
    if arm == f"v{version}":
        return bytes((_SPLIT,))
    if arm not in _ARMS:
        raise ConfigurationError(f"an arm is called {', '.join(_ARMS[1:])} or v{version}, not {arm!r:.40}")
    return bytes((_ARMS.index(arm),))
