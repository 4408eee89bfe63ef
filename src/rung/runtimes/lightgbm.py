"""Gradient-boosted trees saved by LightGBM: text files that begin with `tree`."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from rung.domain.errors import BundleError, MissingDependency, ModelError
from rung.domain.tensors import DATATYPES, Array, Signature, Tensors, TensorSpec
from rung.ports import LoadOptions
from rung.runtimes.lightgbm_files import read_header

__all__ = ["LightGBMModel", "LightGBMRuntime"]

_START = re.compile(rb"tree\r?\nversion=v\d+\r?\n")
_HEAD = 64
_OUTPUTS = {
    "binary": "probability",
    "cross_entropy": "probability",
    "multiclass": "probabilities",
    "multiclassova": "probabilities",
}
"""Objective -> what its numbers are; of any other they are the `output`."""


class LightGBMModel:
    """A booster in memory. A call runs on the caller's thread, and on `threads` of them where that is asked for."""

    platform = "lightgbm"
    lanes = 0
    inline = True

    def __init__(self, booster: Any, signature: Signature) -> None:
        self.signature = signature
        self._booster = booster
        self._output = signature.outputs[0]

    def predict(self, inputs: Tensors, threads: int = 1) -> Tensors:
        """Compute, from FP64 rows in which NaN stands for a missing value.

        Raises:
            ModelError: LightGBM could not compute an answer.
        """
        booster = self._booster
        if booster is None:
            raise ModelError("the model was closed")
        try:
            answer: Array = booster.predict(inputs["input"], num_threads=threads)
        except Exception as error:
            raise ModelError(f"LightGBM failed: {error}") from error
        return {self._output.name: answer.astype(DATATYPES[self._output.datatype], copy=False)}

    def close(self) -> None:
        """Drop the booster; calls in progress end first."""
        self._booster = None


class LightGBMRuntime:
    """Loads what `Booster.save_model` wrote."""

    name = "lightgbm"

    def recognises(self, path: Path) -> bool:
        """By the first two lines."""
        try:
            with path.open("rb") as file:
                return _START.match(file.read(_HEAD)) is not None
        except OSError:
            return False

    def load(self, artifact: Path | str, options: LoadOptions) -> LightGBMModel:
        """Read the file and find out from its objective what it answers.

        Raises:
            BundleError: it is missing, damaged, cut short, or no LightGBM model.
            MissingDependency: LightGBM is not installed.
        """
        path = Path(artifact)
        if not path.is_file():
            raise BundleError(f"{path.name} cannot be read: there is no such file")
        if not self.recognises(path):
            raise BundleError(f"{path.name} is no LightGBM model: save it with Booster.save_model as text")
        try:
            text = path.read_text()
            header = read_header(text)
        except (ValueError, OverflowError) as error:
            raise BundleError(f"{path.name} is damaged: {error}") from None
        try:
            import lightgbm
        except ImportError:
            raise MissingDependency(f'{path.name} needs LightGBM: pip install "rung[lightgbm]"') from None
        try:
            booster = lightgbm.Booster(model_str=text)
            answer = np.asarray(booster.predict(np.zeros((2, header.width)), num_threads=1))
        except (lightgbm.basic.LightGBMError, ValueError, KeyError) as error:
            raise BundleError(f"{path.name} cannot be loaded: {error}") from None
        # Made-up names say nothing.
        named = any(name != f"Column_{number}" for number, name in enumerate(header.names))
        signature = Signature(
            (TensorSpec("input", "FP64", (-1, header.width), columns=header.names if named else ()),),
            (TensorSpec(_OUTPUTS.get(header.objective, "output"), "FP64", (-1, *answer.shape[1:])),),
        )
        return LightGBMModel(booster, signature)
