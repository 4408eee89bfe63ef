"""Whether something of the truth has reached what the model learned from, in ways that make scores look too good."""

import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rung.domain.rules import Outcome, Verdict
from rung.domain.tensors import Array
from rung.settings.project import DataSection
from rung.training.answering import features_of

if TYPE_CHECKING:
    import polars as pl

__all__ = ["check"]

_SEVERAL = 0.01
"""Share of the holdout above which rows that were learned from matter."""
_PERFECT = 0.98
"""Share of the avoidable errors that one feature avoids alone."""
_BINS = 256
_CODES = 1_000
"""Distinct texts of a feature above which it is no category."""
_PICTURES = 5_000
_EDGE = 16
_APART = 12
"""Bits of 256 in which the hashes of two pictures may differ."""
_ALIKE = 0.97
_THUMB = 32
_SHOWN = 5


def check(train: "pl.DataFrame", holdout: "pl.DataFrame", section: DataSection, *, task: str) -> list[Verdict]:
    """Look for rows, groups, pictures and times on both sides, and for a feature that gives the label away.

    Args:
        train: rows that the model has seen, by which it was chosen included.
        holdout: rows that it is scored on.
        section: which columns are what.
        task: `classification`, `regression` or `segmentation`.

    Returns:
        A verdict for each check that this data admits; `fail` where scores are too good to be believed.
    """
    verdicts = [_rows(train, holdout, list(section.key), f"the key {', '.join(section.key)}")] if section.key else []
    content = _content(train, holdout, section)
    if content:
        verdicts.append(_rows(train, holdout, content, "content"))
    if section.group:
        verdicts.append(_groups(train, holdout, section.group))
    if section.time:
        verdicts.append(_times(train, holdout, section.time))
    features = features_of(holdout, section)
    if section.label and task in ("classification", "regression"):
        verdicts.append(_giveaway(train, holdout, features, section.label, task))
    verdicts += [_pictures(train, holdout, name) for name in features if _is_binary(holdout, name)]
    return verdicts


def _content(train: "pl.DataFrame", holdout: "pl.DataFrame", section: DataSection) -> list[str]:
    """Columns by which rows are the same to a model, whatever they are called."""
    features = [name for name in features_of(holdout, section) if name in train.columns and name not in section.key]
    # A picture under another name is the same picture.
    features = [name for name in features if _is_binary(holdout, name)] or features
    # A label alone says nothing of the row.
    return [*features, *([section.label] if section.label in train.columns else [])] if features else []


def _rows(train: "pl.DataFrame", holdout: "pl.DataFrame", columns: list[str], by: str) -> Verdict:
    """Rows that both have: of equal content there may be some by chance, of equal keys there may not."""
    seen = train.select(columns).hash_rows(seed=1).unique()
    both = holdout.select(columns).hash_rows(seed=1).is_in(seen.implode()).to_numpy()
    count, share = int(both.sum()), float(both.mean())
    name = "rows in both" if by != "content" else "content in both"
    evidence = {"rows": holdout.height, "found": count, "share": share, "by": by, "first": _first(both)}
    if not count:
        return Verdict("pass", name, f"No row of the holdout is among the training rows, by {by}.", evidence)
    outcome: Outcome = "fail" if by != "content" or share > _SEVERAL else "inconclusive"
    why = (
        f"{count} of {holdout.height} rows of the holdout ({share:.1%}) are among the training rows, by {by}: the "
        "model may know their answers by heart. Remove them, or name what ties them together in data.group."
    )
    return Verdict(outcome, name, why, evidence)


def _groups(train: "pl.DataFrame", holdout: "pl.DataFrame", group: str) -> Verdict:
    shared = sorted(map(str, set(train[group].unique()) & set(holdout[group].unique())))
    evidence = {"groups": holdout[group].n_unique(), "found": len(shared), "first": shared[:_SHOWN]}
    if shared:
        why = (
            f"{len(shared)} values of {group!r} have rows on both sides, such as {shared[0]}: they must stay together."
        )
        return Verdict("fail", "groups in both", why, evidence)
    return Verdict("pass", "groups in both", f"No value of {group!r} has rows on both sides.", evidence)


def _times(train: "pl.DataFrame", holdout: "pl.DataFrame", time: str) -> Verdict:
    early = int((holdout[time] < train[time].max()).sum())
    newest, oldest = str(train[time].max()), str(holdout[time].min())
    evidence = {"rows": holdout.height, "found": early, "newest": newest, "oldest": oldest}
    if early:
        why = (
            f"{early} of {holdout.height} rows of the holdout are older than the newest training row ({newest}): the "
            "model has learned from their future."
        )
        return Verdict("fail", "holdout is later", why, evidence)
    return Verdict("pass", "holdout is later", f"Every row of the holdout is from {oldest} or later.", evidence)


def _giveaway(
    train: "pl.DataFrame", holdout: "pl.DataFrame", features: Sequence[str], label: str, task: str
) -> Verdict:
    """Predict the label from each feature alone: by its value where there are few, else by 256 quantiles."""
    found = {}
    for name in features:
        codes = _coded(train[name], holdout[name]) if name in train.columns else None
        if codes is not None:
            score = _classes_alone if task == "classification" else _numbers_alone
            found[name] = score(*codes, train[label], holdout[label])
    strong = sorted((name for name, share in found.items() if share >= _PERFECT), key=lambda name: -found[name])
    best = max(found, key=lambda name: found[name]) if found else ""
    evidence: dict[str, Any] = {
        "tested": len(found),
        "alone": dict(sorted(found.items(), key=lambda one: -one[1])[:10]),
    }
    if strong:
        why = (
            f"{strong[0]!r} alone predicts {label!r} almost perfectly ({found[strong[0]]:.1%} of the avoidable error): "
            "look whether it is known when the model is asked; if not, list it in data.ignore."
        )
        return Verdict("fail", "feature gives it away", why, evidence)
    if not found:
        return Verdict(
            "inconclusive", "feature gives it away", "There is no feature that can be looked at alone.", evidence
        )
    why = (
        f"No feature alone predicts {label!r}; the strongest, {best!r}, avoids {max(found[best], 0):.1%} of the error."
    )
    return Verdict("pass", "feature gives it away", why, evidence)


def _coded(train: "pl.Series", holdout: "pl.Series") -> tuple[Array, Array, int] | None:
    """The feature as numbers from 0 on both sides; None where its values hardly repeat."""
    import polars as pl

    if train.dtype.is_numeric() and train.n_unique() > _BINS:
        known = train.cast(pl.Float64).to_numpy()
        edges = np.unique(np.nanquantile(known, np.linspace(0, 1, _BINS + 1)[1:-1]))
        sides = [np.searchsorted(edges, side.cast(pl.Float64).to_numpy()) for side in (train, holdout)]
        return sides[0], sides[1], len(edges) + 1
    if not (train.dtype.is_numeric() or train.dtype in (pl.String, pl.Boolean, pl.Categorical)):
        return None
    texts = train.cast(pl.String).fill_null("").to_list()
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    if len(places) > min(_CODES, max(train.len() // 2, 2)):
        return None
    here = np.array([places[text] for text in texts], np.int64)
    # What training never saw has a place of its own.
    there = np.array(
        [places.get(text, len(places)) for text in holdout.cast(pl.String).fill_null("").to_list()], np.int64
    )
    return here, there, len(places) + 1


def _classes_alone(here: Array, there: Array, codes: int, train: "pl.Series", holdout: "pl.Series") -> float:
    """Share of the errors of always saying the commonest class that saying the commonest of each code avoids."""
    names, known = np.unique(train.cast(str).to_numpy().astype(str), return_inverse=True)
    table = np.bincount(here * len(names) + known, minlength=codes * len(names)).reshape(codes, len(names))
    commonest = int(table.sum(axis=0).argmax())
    said = np.where(table.sum(axis=1) > 0, table.argmax(axis=1), commonest)[there]
    truth = holdout.cast(str).to_numpy().astype(str)
    base, mine = float((names[commonest] != truth).mean()), float((names[said] != truth).mean())
    return 1 - mine / base if base else 0.0


def _numbers_alone(here: Array, there: Array, codes: int, train: "pl.Series", holdout: "pl.Series") -> float:
    """Share of the variance that the mean of each code explains."""
    known, truth = train.cast(float).to_numpy(), holdout.cast(float).to_numpy()
    counts = np.bincount(here, minlength=codes)
    means = np.where(
        counts > 0, np.bincount(here, weights=known, minlength=codes) / np.maximum(counts, 1), known.mean()
    )
    base = float(((truth - known.mean()) ** 2).mean())
    return 1 - float(((truth - means[there]) ** 2).mean()) / base if base else 0.0


def _pictures(train: "pl.DataFrame", holdout: "pl.DataFrame", column: str) -> Verdict:
    """Pictures that look alike: near hashes of brightness steps, then small copies that go together."""
    seen = train if train.height <= _PICTURES else train.sample(_PICTURES, seed=0)
    marks, thumbs = _hashes(seen[column])
    found: dict[int, int] = {}
    for row, (mark, thumb) in enumerate(_each_hash(holdout[column])):
        if mark is None or thumb is None:
            continue
        distances = np.bitwise_count(marks ^ mark).sum(axis=1)
        close = np.flatnonzero(distances <= _APART)
        if len(close) and float((thumbs[close] @ thumb).max()) >= _ALIKE:
            found[row] = int(close[int((thumbs[close] @ thumb).argmax())])
    evidence = {
        "pictures": holdout.height,
        "compared_with": seen.height,
        "found": len(found),
        "first": [*found][:_SHOWN],
    }
    what = f"near-duplicate pictures ({column})"
    of = f"{seen.height} training pictures" + (" drawn by chance" if seen.height < train.height else "")
    if not found:
        return Verdict("pass", what, f"No picture of the holdout looks like one of {of}.", evidence)
    share = len(found) / holdout.height
    outcome: Outcome = "fail" if share > _SEVERAL else "inconclusive"
    why = (
        f"{len(found)} of {holdout.height} pictures of the holdout ({share:.1%}) look like one of {of}: the model may "
        "know them. Name what they have in common in data.group."
    )
    return Verdict(outcome, what, why, evidence)


def _hashes(pictures: "pl.Series") -> tuple[Array, Array]:
    both = [(mark, thumb) for mark, thumb in _each_hash(pictures) if mark is not None and thumb is not None]
    marks = np.array([mark for mark, _ in both], np.uint64).reshape(-1, 4)
    return marks, np.array([thumb for _, thumb in both], np.float32).reshape(-1, _THUMB * _THUMB)


def _each_hash(pictures: "pl.Series") -> Iterator[tuple[Array | None, Array | None]]:
    """256 bits, whether each of 16 x 16 fields is brighter than its left one, and a small normalised copy.

    None for a picture that cannot be read, or has nothing on it.
    """
    from PIL import Image

    for value in pictures:
        try:
            with Image.open(io.BytesIO(value)) as image:
                image.draft("L", (_THUMB * 4, _THUMB * 4))
                grey = image.convert("L").resize((_THUMB * 4, _THUMB * 4), Image.Resampling.BOX)
        except Exception:  # noqa: BLE001 - readers raise whatever a damaged picture leads them to
            yield None, None
            continue
        fields = np.asarray(grey.resize((_EDGE + 1, _EDGE), Image.Resampling.BOX), np.float32)
        bits = np.packbits(fields[:, 1:] > fields[:, :-1])
        thumb = np.asarray(grey.resize((_THUMB, _THUMB), Image.Resampling.BOX), np.float32).ravel()
        thumb = thumb - thumb.mean()
        length = float(np.linalg.norm(thumb))
        if length < _THUMB:
            yield None, None
        else:
            yield bits.view(np.uint64), thumb / length


def _first(found: Array) -> list[int]:
    return [int(place) for place in np.flatnonzero(found)[:_SHOWN]]


def _is_binary(frame: "pl.DataFrame", name: str) -> bool:
    import polars as pl

    return frame.schema.get(name) == pl.Binary and frame[name].null_count() < frame.height
