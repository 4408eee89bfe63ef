"""What a LightGBM text file says of itself, and whether its trees hold together.

LightGBM follows the numbers of a file without looking: a child, a feature or a size that lies outside ends
the process, or reads what is not its own.
"""

from collections.abc import Mapping

import msgspec
import numpy as np

from rung.domain.tensors import Array

__all__ = ["Header", "read_header"]

_CATEGORICAL = 1
"""Bit of a decision type."""


class Header(msgspec.Struct, frozen=True):
    """What stands above the trees."""

    width: int
    names: tuple[str, ...]
    objective: str


def read_header(text: str) -> Header:
    """Read the header and check every tree. Raises ValueError with what is wrong."""
    # LightGBM looks for the first tree like this, and counts the sizes from there.
    start = text.find("Tree=")
    end = text.find("\nend of trees")
    if start < 0 or end < start:
        raise ValueError("it holds no trees, or is cut short")
    fields = _fields(text[:start])
    try:
        width = int(fields["max_feature_idx"]) + 1
        per_round, classes = int(fields["num_tree_per_iteration"]), int(fields["num_class"])
        sizes = [int(size) for size in fields["tree_sizes"].split()]
        names = tuple(fields["feature_names"].split())
        infos = fields["feature_infos"].split()
    except KeyError as error:
        raise ValueError(f"its header has no {error}") from None
    if width < 1 or len(names) != width or len(infos) != width:
        raise ValueError("it does not have a name and a range for each feature")
    if not 1 <= classes == per_round or len(sizes) % per_round or min(sizes, default=0) < 1:
        raise ValueError("its trees do not go evenly into its classes")
    # Sizes count bytes.
    data = text[start:].encode() if not text.isascii() else None
    at = 0
    for number, size in enumerate(sizes):
        block = text[start + at : start + at + size] if data is None else data[at : at + size].decode()
        if not block.startswith(f"Tree={number}\n") or block.count("Tree=") != 1:
            raise ValueError(f"tree {number} is not where its header says")
        try:
            _check(_fields(block), width)
        except KeyError as error:
            raise ValueError(f"tree {number} has no {error}") from None
        except ValueError as error:
            raise ValueError(f"tree {number}: {error}") from None
        at += size
    objective = fields.get("objective", "").split()
    return Header(width, names, objective[0] if objective else "")


def _fields(block: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in block.splitlines():
        key, found, value = line.partition("=")
        if found and fields.setdefault(key, value) != value:
            raise ValueError(f"it has {key!r} twice")
    return fields


def _check(tree: Mapping[str, str], width: int) -> None:
    leaves = int(tree["num_leaves"])
    if leaves < 1:
        raise ValueError("it has no leaves")
    _numbers(tree, "leaf_value", leaves, float)
    if tree.get("is_linear", "0").strip() == "1":
        _check_linear(tree, leaves, width)
    if leaves == 1:
        return
    inner = leaves - 1
    features = _numbers(tree, "split_feature", inner)
    if not _within(features, 0, width):
        raise ValueError("it splits on a feature that there is not")
    children = np.concatenate([_numbers(tree, side, inner) for side in ("left_child", "right_child")])
    # Every node but the first has one parent, so that a walk ends.
    below, ends = children[children >= 0], ~children[children < 0]
    if not _within(below, 1, inner) or len(np.unique(below)) != len(below) or not _within(ends, 0, leaves):
        raise ValueError("a branch leads nowhere, or in a circle")
    thresholds = _numbers(tree, "threshold", inner, float)
    kinds = _numbers(tree, "decision_type", inner)
    categorical = (kinds & _CATEGORICAL) != 0
    count = int(tree["num_cat"])
    if categorical.any() and not _within(thresholds[categorical], 0, count):
        raise ValueError("a split names categories that there are not")
    if count:
        bounds = _numbers(tree, "cat_boundaries", count + 1)
        words = len(tree["cat_threshold"].split())
        if bounds[0] != 0 or (np.diff(bounds) < 0).any() or bounds[-1] > words:
            raise ValueError("its categories do not fit their bounds")


def _check_linear(tree: Mapping[str, str], leaves: int, width: int) -> None:
    _numbers(tree, "leaf_const", leaves, float)
    counts = _numbers(tree, "num_features", leaves)
    if (counts < 0).any():
        raise ValueError("a leaf has less than no features")
    features = _numbers(tree, "leaf_features", int(counts.sum()))
    _numbers(tree, "leaf_coeff", int(counts.sum()), float)
    if not _within(features, 0, width):
        raise ValueError("a leaf uses a feature that there is not")


def _numbers(tree: Mapping[str, str], key: str, count: int, kind: type = int) -> Array:
    words = tree[key].split()
    if len(words) != count:
        raise ValueError(f"it has {len(words)} values of {key}, not {count}")
    return np.array([kind(word) for word in words], np.float64 if kind is float else np.int64)


def _within(values: Array, low: int, high: int) -> bool:
    return bool(((values >= low) & (values < high)).all())
