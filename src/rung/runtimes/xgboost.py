"""Gradient-boosted trees saved by XGBoost: `.json` and `.ubj` files."""

import re
import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from rung.domain.errors import BundleError, InvalidInput, MissingDependency, ModelError
from rung.domain.tensors import DATATYPES, Array, Signature, Tensors, TensorSpec
from rung.ports import LoadOptions
from rung.runtimes.xgboost_files import check, decode

__all__ = ["XGBoostModel", "XGBoostRuntime"]

_JSON = re.compile(rb'\s*\{\s*("version"\s*:\s*\[[\d\s,]*\]\s*,\s*)?"learner"\s*:\s*\{')
_UBJSON = re.compile(rb"\{(L\0{7}\x07|i\x07|U\x07)learner\{")
_HEAD = 256


class XGBoostModel:
    """A booster in memory. A call runs on the caller's thread; `threads` > 1 uses a second booster with a pool."""

    platform = "xgboost"
    inline = True

    def __init__(self, booster: Any, signature: Signature, rounds: tuple[int, int], threads: int) -> None:
        self.signature = signature
        self.lanes = 1 if _kind(booster) == "dart" else 0
        self._linear = _kind(booster) == "gblinear"
        self._booster = booster
        self._wide: Any = None
        self._rounds = rounds
        self._threads = threads
        self._opening = threading.Lock()
        self._output = signature.outputs[0]

    def predict(self, inputs: Tensors, threads: int = 1) -> Tensors:
        """Compute, from FP32 rows in which NaN stands for a missing value.

        Raises:
            InvalidInput: a value is infinite, which a linear booster does not take.
            ModelError: XGBoost could not compute an answer.
        """
        data = inputs["input"]
        booster = self._booster if threads == 1 or self._threads == 1 else self._open_wide()
        if booster is None:
            raise ModelError("the model was closed")
        try:
            answer = _predict(booster, data, self._rounds, linear=self._linear)
        except Exception as error:
            if np.isinf(data).any():
                raise InvalidInput(
                    "input 'input' holds Infinity, which this model does not take; a missing value is NaN",
                    field="input",
                ) from None
            raise ModelError(f"XGBoost failed: {_sentence(error)}") from error
        return {self._output.name: answer.astype(DATATYPES[self._output.datatype])}

    def close(self) -> None:
        """Drop the boosters; calls in progress end first, on the booster that they hold."""
        with self._opening:
            self._booster = self._wide = None

    def _open_wide(self) -> Any:
        # Made on first need: it holds a second copy of the trees.
        if self._wide is None:
            with self._opening:
                if self._wide is None and self._booster is not None:
                    self._wide = self._booster.copy()
                    self._wide.set_param({"nthread": self._threads})
        return self._wide


class XGBoostRuntime:
    """Loads what `Booster.save_model` and `XGBClassifier.save_model` wrote."""

    name = "xgboost"

    def recognises(self, path: Path) -> bool:
        """By the first bytes: a JSON or UBJSON object that begins with a learner."""
        try:
            with path.open("rb") as file:
                head = file.read(_HEAD)
        except OSError:
            return False
        return _JSON.match(head) is not None or _UBJSON.match(head) is not None

    def load(self, artifact: Path | str, options: LoadOptions) -> XGBoostModel:
        """Read the file and find out from its objective what it answers.

        Raises:
            BundleError: it is missing, damaged, no booster, or written by a newer XGBoost.
            MissingDependency: XGBoost is not installed.
        """
        path = Path(artifact)
        if not path.is_file():
            raise BundleError(f"{path.name} cannot be read: there is no such file")
        if not self.recognises(path):
            raise BundleError(f"{path.name} is no XGBoost model: save it with Booster.save_model as .json or .ubj")
        try:
            data = path.read_bytes()
            check(decode(data))
        except ValueError as error:
            raise BundleError(f"{path.name} is damaged: {error}") from None
        try:
            import xgboost
        except ImportError:
            raise MissingDependency(f'{path.name} needs XGBoost: pip install "rung[xgboost]"') from None
        try:
            with xgboost.config_context(verbosity=0):
                booster = xgboost.Booster({"nthread": 1})
                booster.load_model(bytearray(data))
                signature, rounds = _signature(booster), _rounds(booster)
        except (xgboost.core.XGBoostError, ValueError, KeyError, msgspec.MsgspecError) as error:
            raise BundleError(f"{path.name} cannot be loaded: {_sentence(error)}") from None
        return XGBoostModel(booster, signature, rounds, max(1, options.threads))


def _signature(booster: Any) -> Signature:
    width, names = booster.num_features(), booster.feature_names or ()
    # A row of the trees' own width tells how many numbers the objective makes of it.
    answer = _predict(booster, np.zeros((2, width), np.float32), (0, 0), linear=_kind(booster) == "gblinear")
    objective = _learner(booster)["objective"]["name"]
    name, datatype = "output", "FP32"
    if objective == "binary:logistic":
        name = "probability"
    elif objective == "multi:softprob":
        name = "probabilities"
    elif objective in {"multi:softmax", "binary:hinge"}:
        name, datatype = "label", "INT64"
    return Signature(
        (TensorSpec("input", "FP32", (-1, width), columns=tuple(names)),),
        (TensorSpec(name, datatype, (-1, *answer.shape[1:])),),
    )


def _predict(booster: Any, data: Array, rounds: tuple[int, int], *, linear: bool) -> Array:
    answer: Array
    if linear:
        import xgboost

        # Linear boosters have no prediction in place.
        answer = booster.predict(xgboost.DMatrix(data), iteration_range=rounds, validate_features=False)
    else:
        answer = booster.inplace_predict(data, iteration_range=rounds, validate_features=False)
    return answer


def _rounds(booster: Any) -> tuple[int, int]:
    """The rounds to use: all, as a Booster does, or up to the best one, as the scikit-learn classes do."""
    best = booster.attr("best_iteration")
    if best is not None and booster.attr("scikit_learn") is not None:
        return 0, int(best) + 1
    return 0, 0


def _learner(booster: Any) -> dict[str, Any]:
    learner: dict[str, Any] = msgspec.json.decode(booster.save_config())["learner"]
    return learner


def _kind(booster: Any) -> str:
    kind: str = _learner(booster)["gradient_booster"]["name"]
    return kind


def _sentence(error: Exception) -> str:
    """What went wrong, without the time, the place in XGBoost's source and the stack."""
    text = str(error).partition("Stack trace:")[0]
    return re.sub(r"^\[[\d:]+\] \S+:\d+: ", "", text.strip()).replace("\n", " ").strip()[:300] or type(error).__name__
