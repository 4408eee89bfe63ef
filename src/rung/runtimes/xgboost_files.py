"""What an XGBoost file holds, read without XGBoost, and whether its trees hold together.

XGBoost follows the numbers of a file without looking: a child, a feature or a category that lies outside ends
the process, some of them as the file is read.
"""

import struct
from typing import Any

import msgspec
import numpy as np

from rung.domain.tensors import Array

__all__ = ["check", "decode"]

_DEEPEST = 32
_NUMBERS = {b"i": ">i1", b"U": ">u1", b"I": ">i2", b"l": ">i4", b"L": ">i8", b"d": ">f4", b"D": ">f8"}
_NO_PARENT = 2**31 - 1
_PER_NODE = ("split_conditions", "default_left", "sum_hessian", "loss_changes")
_MOST_CLASSES = 1 << 16
_MOST_FEATURES = 1 << 24
_MOST_CATEGORIES = 1 << 24
"""XGBoost keeps categories as float32, which counts no further."""


def decode(data: bytes) -> dict[str, Any]:
    """Read JSON, or UBJSON as XGBoost writes it. Raises ValueError."""
    if data[:1] == b"{" and data[1:2] in _NUMBERS:
        value, _ = _Ubjson(data).value(0, 0)
    else:
        try:
            value = msgspec.json.decode(data)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ValueError(str(error)) from None
    if not isinstance(value, dict):
        raise ValueError("it is no object")  # noqa: TRY004 - the file is wrong, not the caller
    return value


class _Ubjson:
    """A reader of the part of UBJSON that XGBoost uses: sizes stand before everything."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def value(self, at: int, depth: int) -> tuple[Any, int]:
        marker, at = self._data[at : at + 1], at + 1
        if depth > _DEEPEST:
            raise ValueError(f"it is nested more than {_DEEPEST} deep")
        if marker in _NUMBERS:
            return self._number(marker, at)
        if marker == b"S":
            return self._text(at)
        if marker in {b"T", b"F", b"Z"}:
            return {b"T": True, b"F": False, b"Z": None}[marker], at
        if marker == b"{":
            return self._object(at, depth)
        if marker == b"[":
            return self._array(at, depth)
        raise ValueError("it is cut short, or no UBJSON" if not marker else f"it has the unknown marker {marker!r}")

    def _object(self, at: int, depth: int) -> tuple[dict[str, Any], int]:
        found: dict[str, Any] = {}
        while self._data[at : at + 1] != b"}":
            key, at = self._text(at)
            if key in found:
                raise ValueError(f"it has {key!r} twice")
            found[key], at = self.value(at, depth + 1)
        return found, at + 1

    def _array(self, at: int, depth: int) -> tuple[Any, int]:
        if self._data[at : at + 1] == b"$":
            kind = self._data[at + 1 : at + 2]
            if kind not in _NUMBERS or self._data[at + 2 : at + 3] != b"#":
                raise ValueError("it has an array of an unknown type")
            count, at = self._count(at + 3)
            dtype = np.dtype(_NUMBERS[kind])
            if at + count * dtype.itemsize > len(self._data):
                raise ValueError("it is cut short")
            return np.frombuffer(self._data, dtype, count, at), at + count * dtype.itemsize
        items: list[Any] = []
        if self._data[at : at + 1] == b"#":
            count, at = self._count(at + 1)
            for _ in range(count):
                item, at = self.value(at, depth + 1)
                items.append(item)
            return items, at
        while self._data[at : at + 1] != b"]":
            item, at = self.value(at, depth + 1)
            items.append(item)
        return items, at + 1

    def _number(self, marker: bytes, at: int) -> tuple[Any, int]:
        dtype = np.dtype(_NUMBERS[marker])
        if at + dtype.itemsize > len(self._data):
            raise ValueError("it is cut short")
        code = {"i1": "b", "u1": "B", "i2": "h", "i4": "i", "i8": "q", "f4": "f", "f8": "d"}[_NUMBERS[marker][1:]]
        return struct.unpack_from(f">{code}", self._data, at)[0], at + dtype.itemsize

    def _count(self, at: int) -> tuple[int, int]:
        marker = self._data[at : at + 1]
        if marker not in _NUMBERS or marker in {b"d", b"D"}:
            raise ValueError("it is cut short, or no UBJSON")
        count, at = self._number(marker, at + 1)
        if not 0 <= count <= len(self._data):
            raise ValueError("it has a size that cannot be")
        return count, at

    def _text(self, at: int) -> tuple[str, int]:
        count, at = self._count(at)
        if at + count > len(self._data):
            raise ValueError("it is cut short")
        return self._data[at : at + count].decode(), at + count


def check(model: dict[str, Any]) -> None:
    """Check the parts of a decoded model that XGBoost takes on trust. Raises ValueError with what is wrong."""
    try:
        learner = model["learner"]
        sizes = learner["learner_model_param"]
        width, classes = int(sizes["num_feature"]), int(sizes["num_class"])
        targets = int(sizes.get("num_target", 1))
        groups = max(classes, targets)
        if not 0 < width <= _MOST_FEATURES or not 0 < targets <= groups <= _MOST_CLASSES or classes < 0:
            raise ValueError(f"it has {width} features and {groups} classes")
        booster = learner["gradient_booster"]
        kind = booster["name"]
        if kind == "gblinear":
            weights = len(booster["model"]["weights"])
            if weights != (width + 1) * groups:
                raise ValueError(f"it has {weights} weights for {width} features")
            return
        if kind not in {"gbtree", "dart"}:
            raise ValueError(f"it is a {kind!r}, which is not known")
        forest = booster if kind == "gbtree" else booster["gbtree"]
        _check_forest(forest["model"], width, groups)
        if kind == "dart" and len(booster["weight_drop"]) != len(forest["model"]["trees"]):
            raise ValueError("it does not have a weight for each tree")
    except KeyError as error:
        raise ValueError(f"it has no {error}") from None
    except (TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"a part of it is not of its kind: {error}") from None


def _check_forest(model: dict[str, Any], width: int, groups: int) -> None:
    trees = model["trees"]
    of, rounds = _whole(model["tree_info"]), _whole(model.get("iteration_indptr", []))
    if len(of) != len(trees) or int(model["gbtree_model_param"]["num_trees"]) != len(trees):
        raise ValueError(f"it has {len(trees)} trees, and says otherwise")
    if not _within(of, 0, groups):
        raise ValueError("a tree belongs to a class that there is not")
    if len(rounds) and (rounds[0] != 0 or rounds[-1] != len(trees) or (np.diff(rounds) < 0).any()):
        raise ValueError("its rounds do not fit its trees")
    for number, tree in enumerate(trees):
        try:
            _check_tree(tree, number, width, groups)
        except ValueError as error:
            raise ValueError(f"tree {number}: {error}") from None


def _check_tree(tree: dict[str, Any], number: int, width: int, groups: int) -> None:
    if tree["id"] != number:
        raise ValueError("it is not where its number says")
    sizes = tree["tree_param"]
    count, leaf = int(sizes["num_nodes"]), int(sizes.get("size_leaf_vector", 1))
    left, right = _whole(tree["left_children"]), _whole(tree["right_children"])
    features, parents = _whole(tree["split_indices"]), _whole(tree["parents"])
    kinds = _whole(tree.get("split_type", []))
    lengths = {len(array) for array in (left, right, features, parents)} | {len(tree[key]) for key in _PER_NODE}
    if count < 1 or lengths != {count} or len(kinds) not in {0, count}:
        raise ValueError("it does not have each number for each node")
    if leaf not in {0, 1, groups} or len(tree["base_weights"]) != count * max(1, leaf):
        raise ValueError("its leaves are not as large as they should be")
    inner = left != -1
    if leaf > 1:
        # The right child of a leaf is the place of its vector.
        if not _within(right[~inner], 0, len(tree["leaf_weights"]) // leaf):
            raise ValueError("its leaves are not as large as they should be")
    elif (right[~inner] != -1).any():
        raise ValueError("a leaf has a child")
    if int(sizes.get("num_feature", width)) != width or not _within(features[inner], 0, width):
        raise ValueError("it splits on a feature that there is not")
    # Every node but the first has one parent, so that a walk ends.
    below = np.concatenate([left[inner], right[inner]])
    if not _within(below, 1, count) or len(np.unique(below)) != len(below):
        raise ValueError("a branch leads nowhere, or in a circle")
    above, at = parents[(parents != _NO_PARENT) & (parents != -1)], np.flatnonzero(inner)
    if not _within(above, 0, count) or any((parents[side[inner]] != at).any() for side in (left, right)):
        raise ValueError("a node does not know its parent")
    _check_categories(tree, kinds)


def _check_categories(tree: dict[str, Any], kinds: Array) -> None:
    nodes, starts = _whole(tree.get("categories_nodes", [])), _whole(tree.get("categories_segments", []))
    lengths, categories = _whole(tree.get("categories_sizes", [])), _whole(tree.get("categories", []))
    if not np.array_equal(np.flatnonzero(kinds == 1), nodes) or not _within(kinds, 0, 2):
        raise ValueError("its splits by category do not have their categories")
    if len(starts) != len(nodes) or len(lengths) != len(nodes):
        raise ValueError("its splits by category do not have their categories")
    if not _within(starts, 0, len(categories) + 1) or not _within(lengths, 0, len(categories) + 1):
        raise ValueError("its categories lie outside it")
    if (starts + lengths > len(categories)).any() or not _within(categories, 0, _MOST_CATEGORIES):
        raise ValueError("its categories lie outside it")


def _whole(values: Any) -> Array:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError("it has something else where numbers should be")
    return array.astype(np.int64)


def _within(values: Array, low: int, high: int) -> bool:
    return bool(((values >= low) & (values < high)).all())
