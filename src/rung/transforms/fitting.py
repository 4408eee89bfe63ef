"""What turns rows into numbers, found in training data once and frozen.

`fit` looks at all training rows and writes what it found into the parameters of a `tabular.columns` step, `fit_text`
into those of a `text.tfidf` step. Nothing is fitted at serving: the step lies in the bundle, and training, serving and
scoring run it by the same code.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rung.domain.datasets import Kind
from rung.domain.errors import ConfigurationError, InvalidData
from rung.domain.models import Step
from rung.domain.tensors import DATATYPES, Array
from rung.transforms.tabular import Table
from rung.transforms.text import texts_of
from rung.transforms.tfidf import TfIdf, check_ngrams, terms_of

__all__ = ["MOST_CATEGORIES", "MOST_TERMS", "apply", "are_texts", "fit", "fit_text"]

MOST_CATEGORIES = 256
"""Different texts above which a column is no category."""
MOST_TERMS = 4000
"""Terms that `fit_text` keeps: a row of the matrix takes 4 bytes for each."""


def fit(
    columns: Mapping[str, Any],
    *,
    features: Sequence[str],
    kinds: Mapping[str, Kind],
    scale: bool = False,
    one_hot: bool = False,
    fill: bool = True,
) -> Step:
    """The `tabular.columns` step for these columns.

    Args:
        columns: values by name, all training rows: arrays of numbers, or lists.
        features: which of them, in the order of the model's input.
        kinds: what each is.
        scale: bring numbers to mean 0 and deviation 1 over the training rows (population deviation); a column that
            never changes is only centred.
        one_hot: give each category a column.
        fill: where training rows lack numbers, let the median stand in; otherwise NaN does.

    Raises:
        InvalidData: a column is not there, has no values, or cannot become a number.
    """
    if not features:
        raise InvalidData("there is no column left to learn from")
    return Step(
        "tabular.columns",
        {
            "columns": [_column(name, columns, kinds, scale, one_hot, fill) for name in features],
            # What `apply` gives by default: a model that takes FP64 gets the same numbers when it serves.
            "datatype": "FP32",
        },
    )


def fit_text(
    texts: Sequence[str],
    *,
    most: int = MOST_TERMS,
    ngrams: tuple[int, int] = (1, 2),
    least: int = 2,
    lowercase: bool = True,
    sublinear: bool = False,
) -> Step:
    """The `text.tfidf` step for these texts: TfidfVectorizer(ngram_range=ngrams, min_df=least, max_features=most).

    Args:
        texts: all training texts.
        most: terms that are kept, the most frequent ones; of equally frequent ones those first in the alphabet.
        ngrams: fewest and most words of a term.
        least: texts in which a term has to occur to be kept.
        lowercase: make letters small first.
        sublinear: count a term that occurs n times as 1 + ln n.

    Raises:
        InvalidData: one of them is no text, or no term occurs often enough.
        ConfigurationError: a setting makes no sense.
    """
    if most < 1 or least < 1:
        raise ConfigurationError(f"fit_text keeps most terms from 1 and takes least from 1, not {most} and {least}")
    check_ngrams(ngrams)
    frequency: Counter[str] = Counter()
    within: Counter[str] = Counter()
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidData(f"row {row} of the training texts is {text!r:.60}, which is no text")
        terms = list(terms_of(text, ngrams, lowercase=lowercase))
        frequency.update(terms)
        within.update(set(terms))
    kept = [term for term, count in within.items() if count >= least]
    if not kept:
        raise InvalidData(
            f"no term of {ngrams[0]} to {ngrams[1]} words occurs in {least} of the {len(texts)} training texts: "
            "lower least, or bring more texts"
        )
    kept = sorted(sorted(kept, key=lambda term: (-frequency[term], term))[:most])
    idf = [math.log((1 + len(texts)) / (1 + within[term])) + 1 for term in kept]
    params = {
        "vocabulary": kept,
        "idf": idf,
        "ngrams": list(ngrams),
        **({} if lowercase else {"lowercase": False}),
        **({"sublinear": True} if sublinear else {}),
    }
    return Step("text.tfidf", params)


def are_texts(values: Sequence[Any]) -> bool:
    """Whether the values of a text column are texts to read: most of them different, so that they are no categories."""
    there = [value for value in values if value is not None]
    different = len(set(there))
    return different > MOST_CATEGORIES or 2 * different > len(there) > 0


def apply(step: Step, columns: Mapping[str, Any], dtype: np.dtype[Any] = DATATYPES["FP32"]) -> Array:
    """Columns through a fitted step, as serving does it: FP32 [rows, width].

    Raises:
        InvalidInput: naming the row, the column and the reason.
        ConfigurationError: no step that was fitted here.
    """
    if step.name == "text.tfidf":
        return TfIdf.of(**step.params).matrix(texts_of(columns)).astype(dtype, copy=False)
    if step.name != "tabular.columns":
        raise ConfigurationError(f"{step.name!r} is no fitted step; those are tabular.columns and text.tfidf")
    return Table.of(**step.params).matrix(columns, dtype)


def _column(
    name: str, columns: Mapping[str, Any], kinds: Mapping[str, Kind], scale: bool, one_hot: bool, fill: bool
) -> dict[str, Any]:
    if name not in columns:
        raise InvalidData(f"there is no column {name!r} (data.features); there are {', '.join(columns)}")
    kind = kinds[name]
    if kind in ("number", "integer"):
        return _number(name, columns[name], kind, scale, fill)
    values = list(columns[name])
    there = {value for value in values if value is not None}
    lacking = len(there) and any(value is None for value in values)
    if kind == "boolean":
        return {"name": name, "type": "boolean", **({"default": _most_common(values)} if lacking else {})}
    if kind not in ("text", "category"):
        raise InvalidData(
            f"the column {name!r} is {kind}, which is no number: name it in data.ignore, or make numbers of it in train"
        )
    if not there:
        raise InvalidData(f"the column {name!r} has no value in the training rows: name it in data.ignore")
    if len(there) > MOST_CATEGORIES:
        raise InvalidData(
            f"the column {name!r} holds {len(there):,} different texts, too many for a category: name it in "
            "data.ignore, or make numbers of it in train"
        )
    made: dict[str, Any] = {"name": name, "type": "category", "categories": sorted(there)}
    if one_hot:
        made["one_hot"] = True
    if lacking:
        made["default"] = _most_common(values)
    return made


def _number(name: str, given: Any, kind: Kind, scale: bool, fill: bool) -> dict[str, Any]:
    values = np.asarray([np.nan if value is None else value for value in given], np.float64)
    known = values[~np.isnan(values)]
    if not known.size:
        raise InvalidData(f"the column {name!r} has no number in the training rows: name it in data.ignore")
    made: dict[str, Any] = {"name": name, "type": "integer" if kind == "integer" else "number"}
    if known.size < values.size:
        if fill:
            middle = float(np.median(known))
            made["default"] = round(middle) if kind == "integer" else middle
        else:
            made["nullable"] = True
    if scale:
        made["mean"] = float(known.mean())
        deviation = float(known.std())
        if deviation > 0:
            made["deviation"] = deviation
    return made


def _most_common(values: Sequence[Any]) -> Any:
    counts: dict[Any, int] = {}
    for value in values:
        if value is not None:
            counts[value] = counts.get(value, 0) + 1
    # Ties by name, so that the same rows in another order give the same step.
    return min(counts, key=lambda value: (-counts[value], str(value)))
