"""Texts to numbers by their words: how often each of a frozen vocabulary occurs, weighed by how rare it is.

The words, their order and their weights are those of scikit-learn's TfidfVectorizer (Salton and Buckley, Information
Processing and Management 24, 513 (1988)), found in training texts once and kept in the parameters of the step.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from rung.domain.errors import ConfigurationError
from rung.domain.tensors import DATATYPES, Array, Signature, Tensors
from rung.transforms.steps import has_bulk
from rung.transforms.text import texts_of

__all__ = ["TfIdf", "check_ngrams", "terms_of", "tfidf"]

_WORD = re.compile(r"\b\w\w+\b")
"""Two signs or more, as scikit-learn splits: a word of one letter says little."""


def terms_of(text: str, ngrams: Sequence[int] = (1, 1), *, lowercase: bool = True) -> Iterator[str]:
    """The words of a text, then its pairs, triples...: runs of `ngrams[0]` to `ngrams[1]` words, joined by spaces."""
    words = _WORD.findall(text.lower() if lowercase else text)
    for length in range(ngrams[0], ngrams[1] + 1):
        if length == 1:
            yield from words
        else:
            for start in range(len(words) - length + 1):
                yield " ".join(words[start : start + length])


class TfIdf:
    """A frozen vocabulary, and how texts become rows of numbers.

    Args:
        vocabulary: the terms; a term's place is its column.
        idf: the weight of each.
        ngrams: fewest and most words of a term.
        lowercase: whether letters are made small first.
        sublinear: whether a term that occurs n times counts 1 + ln n instead of n.
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        idf: Sequence[float],
        *,
        ngrams: Sequence[int] = (1, 1),
        lowercase: bool = True,
        sublinear: bool = False,
    ) -> None:
        self._places = {term: place for place, term in enumerate(vocabulary)}
        self._idf = np.asarray(idf, np.float64)
        self._ngrams = (int(ngrams[0]), int(ngrams[1]))
        self._lowercase, self._sublinear = lowercase, sublinear

    @property
    def width(self) -> int:
        """Terms in the vocabulary: columns of the matrix."""
        return len(self._idf)

    @classmethod
    def of(
        cls,
        vocabulary: Sequence[str],
        idf: Sequence[float],
        ngrams: Sequence[int] = (1, 1),
        *,
        lowercase: bool = True,
        sublinear: bool = False,
    ) -> "TfIdf":
        """Check the parameters of `text.tfidf`.

        Raises:
            ConfigurationError: one of them makes no sense; the message names it.
        """
        if not vocabulary or len(vocabulary) != len(idf):
            raise ConfigurationError(
                f"text.tfidf needs a weight in idf for each term of its vocabulary; it has {len(vocabulary)} terms "
                f"and {len(idf)} weights"
            )
        if len(set(vocabulary)) != len(vocabulary) or not all(isinstance(term, str) for term in vocabulary):
            raise ConfigurationError("the vocabulary of text.tfidf lists a term twice, or one that is no text")
        if not all(isinstance(weight, int | float) and 0 < weight < math.inf for weight in idf):
            raise ConfigurationError("the weights in idf of text.tfidf are numbers above 0")
        check_ngrams(ngrams)
        return cls(vocabulary, idf, ngrams=ngrams, lowercase=lowercase, sublinear=sublinear)

    def matrix(self, texts: Sequence[str]) -> Array:
        """One row for each text, FP32 [texts, vocabulary], of Euclidean length 1; zeros where no term is known.

        A row does not depend on the others, to the last bit.
        """
        rows: list[int] = []
        places: list[int] = []
        counts: list[int] = []
        known = self._places
        for row, text in enumerate(texts):
            found = Counter(
                place
                for term in terms_of(text, self._ngrams, lowercase=self._lowercase)
                if (place := known.get(term)) is not None
            )
            rows += [row] * len(found)
            # In the order of the columns, so that the sum below is the same for the same words in another order.
            for place in sorted(found):
                places.append(place)
                counts.append(found[place])
        result: Array = np.zeros((len(texts), self.width), np.float32)
        if rows:
            of, at = np.array(rows), np.array(places)
            if self._sublinear:
                values = np.array([1 + math.log(count) for count in counts]) * self._idf[at]
            else:
                values = np.array(counts, np.float64) * self._idf[at]
            # bincount adds one after another, so that a row sums alike alone and among others.
            length = np.sqrt(np.bincount(of, weights=values * values, minlength=len(texts)))
            result[of, at] = values / length[of]
        return result


def check_ngrams(ngrams: Sequence[int]) -> None:
    """Raises `ConfigurationError` unless it is the fewest and the most words of a term."""
    whole = all(isinstance(length, int) and not isinstance(length, bool) for length in ngrams)
    if len(ngrams) != 2 or not whole or not 1 <= ngrams[0] <= ngrams[1]:
        raise ConfigurationError(f"text.tfidf takes ngrams [fewest, most] from 1, not {list(ngrams)!r:.60}")


def _bulk_tfidf(
    signature: Signature,
    labels: tuple[str, ...],
    *,
    vocabulary: Sequence[str],
    idf: Sequence[float],
    ngrams: Sequence[int] = (1, 1),
    lowercase: bool = True,
    sublinear: bool = False,
) -> Callable[[Any], Tensors]:
    made = TfIdf.of(vocabulary, idf, ngrams, lowercase=lowercase, sublinear=sublinear)
    spec = signature.inputs[0]
    real = spec.datatype in ("FP16", "FP32", "FP64")
    if len(signature.inputs) != 1 or not real or len(spec.shape) != 2 or spec.shape[1] not in (-1, made.width):
        raise ConfigurationError(
            f"text.tfidf makes one matrix of real numbers with {made.width} columns, and the model takes "
            + ", ".join(f"{one.name} ({one.datatype} {list(one.shape)})" for one in signature.inputs)
        )
    dtype = DATATYPES[spec.datatype]
    # FP32 first, as in training: a model that takes FP64 learned from these numbers.
    return lambda items: {spec.name: made.matrix(texts_of(items)).astype(dtype, copy=False)}


@has_bulk(_bulk_tfidf)
def tfidf(
    value: Any,
    context: dict[str, Any],
    *,
    vocabulary: Sequence[str],
    idf: Sequence[float],
    ngrams: Sequence[int] = (1, 1),
    lowercase: bool = True,
    sublinear: bool = False,
) -> Array:
    """Turn a text into one number for each term of a vocabulary: how often it occurs, times how rare it is.

    `rung.transforms.fitting.fit_text` finds vocabulary and weights in training texts, as scikit-learn's TfidfVectorizer
    does. The row has length 1; terms that training never saw count nothing.

    Args:
        value: a text, or an object with one field that holds it.
        context: not used.
        vocabulary: the terms, in the order of the columns: words of two signs or more, or several with spaces between.
        idf: the weight of each term, ln((1 + texts) / (1 + texts with it)) + 1.
        ngrams: fewest and most words of a term.
        lowercase: whether to make letters small first.
        sublinear: whether a term that occurs n times counts 1 + ln n instead of n.

    Raises:
        InvalidInput: not a text.
        ConfigurationError: the parameters contradict themselves, or the model takes other inputs.
    """
    made = TfIdf.of(vocabulary, idf, ngrams, lowercase=lowercase, sublinear=sublinear)
    row: Array = made.matrix(texts_of([value]))[0]
    return row
