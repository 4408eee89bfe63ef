"""`.skops` files of scikit-learn, opened without running what they hold.

skops builds objects of types, never calls what a file names; but a type may do harm as it is built or used.
So beyond the set that skops trusts only classes of scikit-learn, numpy and scipy are let in, and of those not the
ones that compile text, read files or start work. Then the numbers by which trees are walked are checked: compiled
code follows them without looking.
"""

import re
import sys
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import structlog

from rung.domain.errors import BundleError, MissingDependency

__all__ = ["import_skops", "looks_like_skops", "open_skops", "parts"]

_SCHEMA = "schema.json"
_LARGEST = 1 << 30
_RATIO = 100
"""A file of more than `_LARGEST` bytes unpacked may not be packed tighter than this."""
_ADMITTED = re.compile(
    # Classes begin with a capital. scipy.stats compiles text as it is restored, sklearn.utils starts processes,
    # sklearn.datasets and numpy read files.
    r"sklearn\.(?!datasets\b|externals\b|utils\b|callback\b|.*\b_?(test|conftest|__main__))[\w.]+\._?[A-Z]\w*"
    r"|sklearn\.utils\.(_bunch\.)?Bunch|numpy\.dtype|sklearn\.compose\._column_transformer\.make_column_selector"
    r"|numpy\.(random|dtypes)\.(\w+\.)*[A-Z]\w*"
    r"|numpy\.(random\.)?mtrand\.RandomState"
    r"|scipy\.sparse\.(\w+\.)*\w+_(matrix|array)"
    r"|scipy\.interpolate\.(\w+\.)*[A-Z]\w*"
)
_log = structlog.get_logger("rung.runtimes")


def import_skops(what: str) -> Any:
    """The module `skops.io`, without the torch that comes with it where both are installed.

    As it is imported, skops walks through all of scikit-learn, whose compatibility layer for torch imports that:
    seconds and 200 MB for nothing. The walk leaves out what cannot be imported, so torch is away until it is done.

    Raises:
        MissingDependency: `what` needs scikit-learn or skops, which are not installed.
    """
    sys.meta_path.insert(0, _NO_TORCH)
    try:
        import skops.io
    except ImportError:
        raise MissingDependency(f'{what} needs scikit-learn and skops: pip install "rung[sklearn]"') from None
    finally:
        sys.meta_path.remove(_NO_TORCH)
    return skops.io


class _NoTorch(MetaPathFinder):
    """Where torch has been imported already, nobody is asked."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname == "torch":
            raise ModuleNotFoundError("torch is not imported for this", name=fullname)


_NO_TORCH = _NoTorch()


def looks_like_skops(path: Path) -> bool:
    """Whether the file is a zip with the description that skops writes."""
    try:
        with path.open("rb") as file:
            if file.read(4) != b"PK\x03\x04":
                return False
        with zipfile.ZipFile(path) as archive, archive.open(_SCHEMA) as schema:
            return b'"__loader__"' in schema.read(4096)
    except (OSError, KeyError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile):
        return False


def open_skops(path: Path) -> Any:
    """Return the object in the file.

    Raises:
        BundleError: no skops file, damaged, with types that are not let in (each is named), or with a tree that
            leads outside itself.
        MissingDependency: scikit-learn or skops is not installed.
    """
    if not path.is_file():
        raise BundleError(f"{path.name} cannot be read: there is no such file")
    if not looks_like_skops(path):
        raise BundleError(f"{path.name} is no skops file: save the estimator with skops.io.dump")
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > max(_LARGEST, _RATIO * path.stat().st_size):
        raise BundleError(f"{path.name} unpacks to {unpacked} bytes, over {_RATIO} times its size: it is refused")
    skops = import_skops(path.name)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found = skops.get_untrusted_types(file=path)
            refused = [name for name in found if not _ADMITTED.fullmatch(name)]
            thing = None if refused else skops.load(path, trusted=found)
        except Exception as error:  # noqa: BLE001 - a damaged file may raise anything
            raise BundleError(f"{path.name} cannot be loaded: {_sentence(error)}") from None
    if refused:
        raise BundleError(
            f"{path.name} holds types that are not scikit-learn's, which could run code: {', '.join(refused)}. "
            "Replace them by scikit-learn's own, or serve a class of your own as module:Class"
        )
    for warning in said:
        if warning.category.__name__ == "InconsistentVersionWarning":
            _log.warning(_sentence(warning.message), action="other_version", artifact=path.name)
            break
    for part in parts(thing):
        _check_tree(path.name, part)
        if getattr(part, "input", "content") != "content" and hasattr(part, "build_analyzer"):
            raise BundleError(f"{path.name} has a vectorizer with input={part.input!r}, which would read files")
    return thing


def parts(thing: Any) -> Iterator[Any]:
    """The object and every scikit-learn object within it, outermost first, each once."""
    seen: set[int] = set()
    waiting = [thing]
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, dict):
            waiting.extend(part.values())
        elif isinstance(part, list | tuple):
            waiting.extend(part)
        elif isinstance(part, np.ndarray):
            if part.dtype.kind == "O":
                waiting.extend(part.ravel().tolist())
        elif type(part).__module__.startswith("sklearn."):
            yield part
            waiting.extend(getattr(part, "__dict__", {}).values())
            # Compiled classes have no __dict__; a tree hangs on its estimator, and is an end.


def _check_tree(file: str, part: Any) -> None:
    kind = type(part).__name__
    if kind.startswith(("KDTree", "BallTree")):
        _check_neighbours(file, part.__getstate__())
        return
    if kind == "Tree":
        left, right, feature = part.children_left, part.children_right, part.feature
        width, inner = part.n_features, part.children_left != -1
    elif kind == "TreePredictor":
        nodes = part.nodes
        left, right, feature = nodes["left"].astype(np.int64), nodes["right"].astype(np.int64), nodes["feature_idx"]
        width, inner = None, nodes["is_leaf"] == 0
        categories = nodes["bitset_idx"][inner & (nodes["is_categorical"] != 0)]
        if (categories >= min(len(part.binned_left_cat_bitsets), len(part.raw_left_cat_bitsets))).any():
            raise BundleError(f"{file} has a tree whose categories lie outside it: it is damaged")
    else:
        return
    count, above = len(left), np.arange(len(left))
    # Every child stands behind its parent, so that a walk ends.
    sound = count > 0 and all(
        (side[inner] > above[inner]).all() and (side[inner] < count).all() for side in (left, right)
    )
    if not sound or (feature[inner] < 0).any() or (width is not None and (feature[inner] >= width).any()):
        raise BundleError(f"{file} has a tree that leads outside itself: it is damaged")


def _check_neighbours(file: str, state: tuple[Any, ...]) -> None:
    data, order, nodes, bounds, _, levels, count = state[:7]
    first, last = nodes["idx_start"], nodes["idx_end"]
    # The children of node i are 2 i + 1 and 2 i + 2, unless it is a leaf.
    inner = np.flatnonzero(nodes["is_leaf"] == 0)
    sound = (
        len(order) == len(data)
        and count == len(nodes) == bounds.shape[1] == 2**levels - 1
        and bounds.shape[2] == data.shape[1]
        and ((order >= 0) & (order < len(data))).all()
        and ((first >= 0) & (first <= last) & (last <= len(data))).all()
        and (2 * inner + 2 < count).all()
    )
    if not sound:
        raise BundleError(f"{file} has a tree of neighbours that leads outside itself: it is damaged")


def _sentence(error: Any) -> str:
    return str(error).partition("\n")[0].strip()[:300] or type(error).__name__
