"""The chain of releases of a model: one create-only file a move, each naming its predecessor's digest.

    releases/MODEL/000000000001.json   <- previous ""
    releases/MODEL/000000000002.json   <- previous sha256 of the file before

The chain is the ledger, and its last link says what answers now. The create-only put decides between rivals, on a
disk as in a bucket; whoever loses reads again and decides anew. Links are never changed or removed.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import msgspec

from rung.domain.errors import BundleError, Conflict, InvalidInput, NotFound
from rung.domain.names import check_name
from rung.domain.releases import BUCKETS, Release, check_attribute
from rung.ports import BlobStore

__all__ = ["FOLDER", "Link", "ReleaseFollower", "append", "back", "last", "links", "models", "read"]

FOLDER = "releases"
FORMAT = 1
_LINK = re.compile(r"\d{12}\.json", re.ASCII)
_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(Release).decode


class Link(msgspec.Struct, frozen=True):
    """A release, and the digest by which its successor names it."""

    release: Release
    digest: str


def _key(model: str, epoch: int) -> str:
    return f"{FOLDER}/{check_name(model)}/{epoch:012d}.json"


def read(store: BlobStore, model: str, epoch: int) -> Link:
    """One link.

    Raises:
        NotFound: there is none of this epoch.
        BundleError: it cannot be read, or says that it is another.
    """
    key = _key(model, epoch)
    data = store.get(key)
    try:
        release = _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{key} cannot be read: {error}") from None
    if release.format != FORMAT:
        raise BundleError(f"{key} has format {release.format}, this rung reads format {FORMAT}: upgrade rung")
    if (release.model, release.epoch) != (model, epoch) or not (_covers(release) and _sound(release)):
        raise BundleError(f"{key} is no release of epoch {epoch} of {model}: it was not written by rung")
    return Link(release, hashlib.sha256(data).hexdigest())


def _covers(release: Release) -> bool:
    at, names = 0, {arm.name for arm in release.arms}
    for start, stop, name in release.ranges:
        if start != at or stop <= start or name not in names:
            return False
        at = stop
    return at == BUCKETS and bool(release.arms)


def _sound(release: Release) -> bool:
    rollout = release.rollout
    try:
        check_attribute(release.unit, address=True)
        for segment in release.segments:
            check_attribute(segment.attribute)
        aware = datetime.fromisoformat(release.at).tzinfo is not None
    except (InvalidInput, ValueError):
        return False
    return aware and (rollout is None or 0 <= rollout.stage < len(rollout.ladder))


def models(store: BlobStore) -> list[str]:
    """Models that have a release, by name. Folders of other names are passed over."""
    found = set()
    for blob in store.list(FOLDER):
        parts = blob.key.split("/")
        if len(parts) == 3 and _LINK.fullmatch(parts[2]):
            with suppress(InvalidInput):
                found.add(check_name(parts[1]))
    return sorted(found)


def last(store: BlobStore, model: str) -> Link | None:
    """The last link; None for a model without a release."""
    epochs = _epochs(store, model)
    return read(store, model, epochs[-1]) if epochs else None


def _epochs(store: BlobStore, model: str) -> list[int]:
    folder = f"{FOLDER}/{check_name(model)}"
    names = [blob.key.removeprefix(f"{folder}/") for blob in store.list(folder)]
    return sorted(int(name[:12]) for name in names if _LINK.fullmatch(name))


def links(store: BlobStore, model: str) -> list[Link]:
    """The whole chain, first to last.

    Raises:
        BundleError: a link is missing, unreadable, or does not name its predecessor: somebody changed the ledger.
    """
    chain: list[Link] = []
    for epoch in _epochs(store, model):
        link = read(store, model, epoch)
        want = chain[-1].digest if chain else ""
        if link.release.previous != want or epoch != len(chain) + 1:
            raise BundleError(f"the ledger of {model} is broken at epoch {epoch}: it does not follow the one before")
        chain.append(link)
    return chain


def back(store: BlobStore, model: str) -> Iterator[Link]:
    """The chain from its last link to the first, read one by one: whoever looks for the latest of its kind reads few.

    Raises:
        BundleError: the link before is missing, unreadable, or not the one that is named.
    """
    link = last(store, model)
    while link is not None:
        yield link
        epoch, want = link.release.epoch - 1, link.release.previous
        try:
            link = read(store, model, epoch) if epoch else None
        except NotFound:
            raise BundleError(f"the ledger of {model} is broken: epoch {epoch} is missing") from None
        if (link.digest if link else "") != want:
            raise BundleError(
                f"the ledger of {model} is broken at epoch {epoch + 1}: it does not follow the one before"
            )


def append(
    store: BlobStore,
    model: str,
    build: Callable[[Release | None], Release],
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Release:
    """Write the next link: what `build` makes of the last one. Epoch, predecessor and time are filled in.

    Raises:
        Conflict: somebody else moved first.
        RungError: whatever `build` raises; nothing was written.
    """
    link = last(store, model)
    before = link.release if link else None
    epoch = (before.epoch if before else 0) + 1
    now = clock()
    if before is not None:
        # A clock that was set back must not reorder the ledger.
        now = max(now, datetime.fromisoformat(before.at) + timedelta(microseconds=1))
    at = now.isoformat(timespec="microseconds")
    draft = msgspec.structs.replace(
        build(before), epoch=epoch, previous=link.digest if link else "", at=at, format=FORMAT
    )
    rollout = draft.rollout
    if rollout is not None:
        # An empty time is this link's.
        rollout = msgspec.structs.replace(rollout, began=rollout.began or at, entered=rollout.entered or at)
        draft = msgspec.structs.replace(draft, rollout=rollout)
    try:
        data = _encode(draft)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"the evidence of a move must be plain JSON: {error}", field="evidence") from None
    try:
        store.put(_key(model, epoch), data, create=True)
    except Conflict:
        if store.get(_key(model, epoch)) != data:
            raise Conflict(
                f"somebody else moved {model} to epoch {epoch} first: look at `rung releases`, and decide again"
            ) from None
    return draft


class ReleaseFollower:
    """What answers now, asked again and again: remembers the last link and looks for the one after it.

    A link that cannot be read stops its own model where it is, and no other: it is logged once. One that is met
    with that at its first look takes the last link that can be read.
    """

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._known: dict[str, Release | None] = {}
        self._trouble: dict[str, str] = {}

    def poll(self, names: set[str]) -> list[Release]:
        """The release of each of these models that has one. Raises what the store raises while it cannot be reached."""
        for name in self._known.keys() - names:
            del self._known[name]
            self._trouble.pop(name, None)
        for name in names:
            if name not in self._known:
                self._known[name] = self._begin(name)
            # Rarely more than one step, and a missing link is the usual answer.
            while (step := self._next(name, self._known[name])) is not None:
                self._known[name] = step
        return [release for release in self._known.values() if release is not None]

    def _begin(self, name: str) -> Release | None:
        for epoch in reversed(_epochs(self._store, name)):
            try:
                return read(self._store, name, epoch).release
            except NotFound:
                continue
            except BundleError as error:
                self._complain(name, error)
        return None

    def _next(self, name: str, known: Release | None) -> Release | None:
        try:
            release = read(self._store, name, known.epoch + 1 if known else 1).release
        except NotFound:
            return None
        except BundleError as error:
            self._complain(name, error)
            return None
        self._trouble.pop(name, None)
        return release

    def _complain(self, name: str, error: BundleError) -> None:
        if self._trouble.get(name) != str(error):
            self._trouble[name] = str(error)
            import structlog  # late: whoever types `rung rollback` waits for what is imported

            structlog.get_logger(__name__).error(
                "a release cannot be read; the last one that can stays in force",
                action="ledger_broken",
                model=name,
                reason=str(error),
            )
