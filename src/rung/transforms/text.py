"""Texts to tensors: as bytes for models that tokenise inside, or as the word pieces of a vocabulary."""

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from rung.domain.errors import ConfigurationError, InvalidInput
from rung.domain.tensors import DATATYPES, Array, Signature, Tensors
from rung.transforms.steps import has_bulk

__all__ = ["WordPiece", "encode", "texts_of", "wordpiece"]

_LONGEST_WORD = 100
# Longer words become the unknown token, as BERT has it: the search within a word takes the square of its length.
_BETWEEN_SPACES = re.compile("[^ \t\n\r]+")
_WANTED = ("input_ids", "attention_mask", "token_type_ids")


def _text(item: Any) -> str:
    if isinstance(item, Mapping) and len(item) == 1:
        item = next(iter(item.values()))
    elif isinstance(item, list) and len(item) == 1:
        item = item[0]
    if not isinstance(item, str):
        raise InvalidInput('a text is expected, or an object {"text": "..."}', field="text")
    return item


def texts_of(items: Any) -> list[str]:
    """The texts of a list of items, or of an object with one column.

    Raises:
        InvalidInput: naming the item that is no text.
    """
    if isinstance(items, Mapping):
        column = next(iter(items.values())) if len(items) == 1 else None
        items = column if isinstance(column, list) else [items]
    texts = []
    for position, item in enumerate(items):
        try:
            texts.append(_text(item))
        except InvalidInput as error:
            if len(items) == 1:
                raise
            raise InvalidInput(f"item {position}: {error}", field=error.field) from None
    return texts


def _bulk_encode(
    signature: Signature, labels: tuple[str, ...], *, lowercase: bool = False, max_length: int = 0
) -> Callable[[Any], Tensors]:
    spec = signature.inputs[0]
    trailing = spec.shape[1:]
    if len(signature.inputs) != 1 or spec.datatype != "BYTES" or any(size not in (-1, 1) for size in trailing):
        raise ConfigurationError(
            "text.encode needs a model with one input of BYTES, one text per row; this one takes "
            + ", ".join(f"{one.name} ({one.datatype} {list(one.shape)})" for one in signature.inputs)
        )

    def tensors(items: Any) -> Tensors:
        encoded = [_encoded(text, lowercase=lowercase, max_length=max_length) for text in texts_of(items)]
        array: Array = np.empty(len(encoded), object)
        array[:] = encoded
        return {spec.name: array.reshape((-1,) + (1,) * len(trailing))}

    return tensors


def _encoded(text: str, *, lowercase: bool, max_length: int) -> bytes:
    text = text.lower() if lowercase else text
    try:
        return (text[:max_length] if max_length else text).encode()
    except UnicodeEncodeError:
        raise InvalidInput("the text holds half of a surrogate pair", field="text") from None


@has_bulk(_bulk_encode)
def encode(value: Any, context: dict[str, Any], *, lowercase: bool = False, max_length: int = 0) -> Array:
    """Turn a text into one BYTES element, UTF-8, for models that split it into words themselves.

    Args:
        value: a text, or an object with one field that holds it.
        context: not used.
        lowercase: whether to make all letters small.
        max_length: characters that are kept; all when 0.

    Raises:
        InvalidInput: not a text.
    """
    result: Array = np.empty((), object)
    result[()] = _encoded(_text(value), lowercase=lowercase, max_length=max_length)
    return result


class WordPiece:
    """Splits texts into the pieces of a vocabulary, longest first, as BERT does.

    Args:
        vocabulary: the pieces; a piece's place is its id, and `##` begins those that go on within a word.
        lowercase: whether letters are made small and stripped of accents first.
        special: the tokens for unknown words, padding, the begin and the end of a text.
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        *,
        lowercase: bool = True,
        special: Sequence[str] = ("[UNK]", "[PAD]", "[CLS]", "[SEP]"),
    ) -> None:
        self._ids = {piece: place for place, piece in enumerate(vocabulary)}
        self._lowercase = lowercase
        self._special = special

    @classmethod
    def of(cls, vocabulary: Sequence[str], *, lowercase: bool, max_length: int) -> "WordPiece":
        """Check the parameters of `text.wordpiece`.

        Raises:
            ConfigurationError: a special token is not in the vocabulary, or the length leaves no room.
        """
        made = cls(vocabulary, lowercase=lowercase)
        missing = [token for token in made._special if token not in made._ids]
        if missing:
            raise ConfigurationError(f"the vocabulary of text.wordpiece has no {', '.join(missing)}")
        if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 2:
            raise ConfigurationError(f"text.wordpiece takes a max_length from 2, not {max_length!r}")
        return made

    def encode(self, texts: Sequence[str], max_length: int, length: int = -1) -> dict[str, Array]:
        """Encode texts as `input_ids`, `attention_mask` and `token_type_ids`, int64 [texts, tokens].

        Longer ones are cut at `max_length`, begin and end included; shorter ones are padded to `length`, or to the
        longest when it is -1.
        """
        _, padding, begin, end = (self._ids[token] for token in self._special)
        limit = max_length if length < 0 else min(max_length, length)
        rows = []
        for text in texts:
            row = [begin]
            for word in self._split(text):
                row += self._pieces(word)
                if len(row) >= limit:
                    break
            rows.append([*row[: limit - 1], end])
        width = max(map(len, rows)) if length < 0 else length
        ids = np.full((len(rows), width), padding, np.int64)
        mask = np.zeros_like(ids)
        for position, row in enumerate(rows):
            ids[position, : len(row)] = row
            mask[position, : len(row)] = 1
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}

    def _split(self, text: str) -> Iterator[str]:
        """The words, one by one: of a long text only as many are read as are kept."""
        for found in _BETWEEN_SPACES.finditer(text):
            part = found[0]
            if self._lowercase:
                apart = unicodedata.normalize("NFD", part.lower())
                part = "".join(sign for sign in apart if unicodedata.category(sign) != "Mn")
            yield from "".join(map(_spaced, part)).split()

    def _pieces(self, word: str) -> list[int]:
        """Cut the longest piece off the front, again and again; a word that does not come out even is unknown."""
        unknown = [self._ids[self._special[0]]]
        if len(word) > _LONGEST_WORD:
            return unknown
        found, start = [], 0
        while start < len(word):
            for end in range(len(word), start, -1):
                number = self._ids.get(("##" if start else "") + word[start:end])
                if number is not None:
                    break
            else:
                return unknown
            found.append(number)
            start = end
        return found


def _spaced(sign: str) -> str:
    """A sign with spaces round it where it is a word of its own; nothing for signs that do not show."""
    if sign.isalnum() and not _is_han(sign):
        return sign
    category = unicodedata.category(sign)
    if category == "Zs":
        return " "
    if category[0] == "C" or sign == "\ufffd":
        return ""
    # Of ASCII, signs such as $ and ^ count as punctuation although Unicode calls them symbols.
    return f" {sign} " if category[0] == "P" or (sign < "\x7f" and not sign.isalnum()) or _is_han(sign) else sign


def _is_han(sign: str) -> bool:
    code = ord(sign)
    return code >= 0x3400 and (
        0x3400 <= code <= 0x4DBF or 0x4E00 <= code <= 0x9FFF or 0xF900 <= code <= 0xFAFF or 0x20000 <= code <= 0x2FA1F
    )


def _bulk_wordpiece(
    signature: Signature,
    labels: tuple[str, ...],
    *,
    vocabulary: Sequence[str],
    max_length: int = 128,
    lowercase: bool = True,
) -> Callable[[Any], Tensors]:
    pieces = WordPiece.of(vocabulary, lowercase=lowercase, max_length=max_length)
    specs = {spec.name: spec for spec in signature.inputs}
    widths = {spec.shape[-1] for spec in signature.inputs}
    integers = all(spec.datatype in ("INT64", "INT32") and len(spec.shape) == 2 for spec in signature.inputs)
    if not specs.keys() <= set(_WANTED) or "input_ids" not in specs or not integers or len(widths) != 1:
        raise ConfigurationError(
            f"text.wordpiece makes {', '.join(_WANTED)} of INT64 [rows, tokens]; the model takes "
            + ", ".join(f"{one.name} ({one.datatype} {list(one.shape)})" for one in signature.inputs)
        )
    width = widths.pop()

    def tensors(items: Any) -> Tensors:
        made = pieces.encode(texts_of(items), max_length, width)
        return {name: made[name].astype(DATATYPES[spec.datatype], copy=False) for name, spec in specs.items()}

    return tensors


@has_bulk(_bulk_wordpiece)
def wordpiece(
    value: Any,
    context: dict[str, Any],
    *,
    vocabulary: Sequence[str],
    max_length: int = 128,
    lowercase: bool = True,
) -> dict[str, Array]:
    """Turn a text into the ids of its word pieces, as BERT and its kin take them.

    Makes those of `input_ids`, `attention_mask` and `token_type_ids` (INT64 [tokens]) that the model has as inputs.
    Texts of one request are padded to the longest of them, or to the model's own length where that is fixed.

    Args:
        value: a text, or an object with one field that holds it.
        context: not used.
        vocabulary: the pieces in the order of their ids, with [UNK], [PAD], [CLS] and [SEP] among them.
        max_length: tokens that are kept, [CLS] and [SEP] included.
        lowercase: whether to make letters small and strip accents, as uncased models want.

    Raises:
        InvalidInput: not a text.
        ConfigurationError: a special token is missing, or the model takes other inputs.
    """
    pieces = WordPiece.of(vocabulary, lowercase=lowercase, max_length=max_length)
    return {name: array[0] for name, array in pieces.encode([_text(value)], max_length).items()}
