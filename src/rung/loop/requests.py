"""Retrainings as they are kept: one folder each, whose files are created once and never changed.

    retrains/MODEL/000000000003/request.json     why
    retrains/MODEL/000000000003/extract.json     and what was decided, step by step
    ...

A step that is done again, because its process died after the last time, finds its decision and keeps to it. So
each has one effect, whoever is killed where.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import msgspec

from rung.domain.errors import Conflict, NotFound
from rung.domain.names import check_name
from rung.domain.retraining import STEPS, Decision, Request, Retraining, Step
from rung.ports import BlobStore

__all__ = ["ask", "decide", "find", "retrainings"]


def ask(store: BlobStore, model: str, request: Request) -> Retraining:
    """Keep a request; that of the same cause and occasion is found again instead."""
    check_name(model)
    while True:
        there = retrainings(store, model)
        same = (request.cause, request.occasion)
        for one in there:
            if (one.request.cause, one.request.occasion) == same:
                return one
        number = there[-1].number + 1 if there else 1
        try:
            store.put(_key(model, number, "request"), msgspec.json.encode(request), create=True)
        except Conflict:
            continue  # somebody else was first, perhaps with the same occasion
        return Retraining(model, number, request)


def decide(store: BlobStore, model: str, number: int, step: Step, decision: Decision) -> Decision:
    """Keep a decision; the one that is there already counts, and is returned."""
    try:
        store.put(_key(model, number, step), msgspec.json.encode(decision), create=True)
    except Conflict:
        return msgspec.json.decode(store.get(_key(model, number, step)), type=Decision)
    return decision


def find(store: BlobStore, model: str, number: int) -> Retraining:
    """One of them.

    Raises:
        NotFound: there is none of this number.
    """
    try:
        request = msgspec.json.decode(store.get(_key(model, number, "request")), type=Request)
    except NotFound:
        raise NotFound(f"{model} has no retraining {number}; rung retrains {model} shows them") from None
    return Retraining(model, number, request, dict(_decisions(store, model, number, STEPS)))


def retrainings(
    store: BlobStore, model: str, *, known: Mapping[int, Retraining] = MappingProxyType({})
) -> list[Retraining]:
    """All of a model, oldest first; those in `known`, which are over, are not read again."""
    there: dict[int, set[str]] = {}
    for blob in store.list(f"retrains/{model}"):
        digits, _, name = blob.key.removeprefix(f"retrains/{model}/").partition("/")
        there.setdefault(int(digits), set()).add(name)
    found = []
    for number, names in sorted(there.items()):
        if number in known:
            found.append(known[number])
        elif "request.json" in names:
            request = msgspec.json.decode(store.get(_key(model, number, "request")), type=Request)
            steps = [step for step in STEPS if f"{step}.json" in names]
            found.append(Retraining(model, number, request, dict(_decisions(store, model, number, steps))))
    return found


def _decisions(store: BlobStore, model: str, number: int, steps: Sequence[Step]) -> Iterator[tuple[Step, Decision]]:
    for step in steps:
        try:
            yield step, msgspec.json.decode(store.get(_key(model, number, step)), type=Decision)
        except NotFound:
            return


def _key(model: str, number: int, name: str) -> str:
    return f"retrains/{model}/{number:012}/{name}.json"
