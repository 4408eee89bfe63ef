"""scikit-learn estimators from `.skops` files, run as they are or as ONNX, whichever is faster."""

from pathlib import Path
from typing import Any

import numpy as np

from rung.domain.errors import BundleError, ModelError
from rung.domain.tensors import Tensors
from rung.ports import LoadOptions
from rung.runtimes.sklearn_estimators import Reading, read
from rung.runtimes.sklearn_files import looks_like_skops, open_skops
from rung.runtimes.sklearn_onnx import Converted, faster

__all__ = ["SklearnModel", "SklearnRuntime"]


class SklearnModel:
    """An estimator in memory, with its ONNX form where that is faster.

    Attributes:
        platform: `sklearn`, or `sklearn_onnx` where the graph answers.
        lanes: 1, since scikit-learn holds the interpreter's lock; the graph does not.
    """

    inline = True

    def __init__(self, estimator: Any, reading: Reading, converted: Converted | None) -> None:
        self.signature = reading.signature
        self.platform = "sklearn" if converted is None else "sklearn_onnx"
        self.lanes = 1 if converted is None else 0
        self._estimator = estimator
        self._reading = reading
        self._converted = converted
        self._numbers = [spec.name for spec in reading.signature.inputs if spec.datatype != "BYTES"]
        self._known = {
            column.name: frozenset(value.encode() if column.text else value for value in column.values)
            for column in reading.columns
            if column.strict
        }

    def predict(self, inputs: Tensors, threads: int = 1) -> Tensors:
        """Compute.

        Raises:
            InvalidInput: scikit-learn does not take a value: NaN, Infinity, a category that training did not have.
            ModelError: it failed for another reason.
        """
        estimator, converted = self._estimator, self._converted
        if estimator is None:
            raise ModelError("the model was closed")
        if converted is not None and self._plain(inputs):
            return converted.predict(inputs, threads)
        return self._reading.answer(estimator, self._reading.rows(inputs))

    def close(self) -> None:
        """Drop the estimator and the graph."""
        if self._converted is not None:
            self._converted.close()
        self._estimator = None

    def _plain(self, inputs: Tensors) -> bool:
        """Whether the graph treats these values as the estimator does, which refuses some."""
        return all(np.isfinite(inputs[name]).all() for name in self._numbers) and all(
            known.issuperset(inputs[name].ravel().tolist()) for name, known in self._known.items()
        )


class SklearnRuntime:
    """Loads what `skops.io.dump` wrote."""

    name = "sklearn"

    def recognises(self, path: Path) -> bool:
        """By the description within the zip that skops writes."""
        return looks_like_skops(path)

    def load(self, artifact: Path | str, options: LoadOptions) -> SklearnModel:
        """Open the file, find out what the estimator takes and gives, and choose how to run it.

        Raises:
            BundleError: it is damaged, holds types that are not scikit-learn's, or no fitted estimator that can
                answer new rows.
            MissingDependency: scikit-learn or skops is not installed.
        """
        path = Path(artifact)
        estimator = open_skops(path)
        try:
            reading = read(path.name, estimator)
        except BundleError:
            raise
        except Exception as error:  # noqa: BLE001 - attributes are whatever the file says
            raise BundleError(f"{path.name}: {type(estimator).__name__} is damaged: {error!r:.300}") from None
        converted = faster(path, estimator, reading, options)
        return SklearnModel(estimator, reading, converted)
