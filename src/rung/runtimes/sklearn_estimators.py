"""What a fitted scikit-learn estimator takes and gives, read off its attributes and one made-up row."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from rung.domain.errors import BundleError, InvalidInput, ModelError
from rung.domain.tensors import DATATYPES, Array, Signature, Tensors, TensorSpec
from rung.runtimes.sklearn_files import parts

__all__ = ["Column", "Reading", "encode_text", "read"]

_TRIALS = (0.0, 1.0, 0.5)
_ENCODERS = ("OneHotEncoder", "OrdinalEncoder", "TargetEncoder")


class Column(msgspec.Struct):
    """One column of a table that is not numbers throughout."""

    name: str
    text: bool = False
    values: tuple[Any, ...] = ()
    """Those that it had in training, where an encoder keeps them."""
    strict: bool = False
    """Whether any other value is an error."""


class Reading(msgspec.Struct):
    """How tensors become the rows of an estimator, and its answers become tensors."""

    signature: Signature
    methods: tuple[str, ...]
    """The estimator's method behind each output."""
    columns: tuple[Column, ...] = ()
    """One per input; empty where the one input is a matrix, or texts."""

    def rows(self, inputs: Tensors) -> Any:
        """The rows as the estimator takes them.

        Raises:
            InvalidInput: a text is not UTF-8.
        """
        if not self.columns:
            spec = self.signature.inputs[0]
            return _decode(inputs[spec.name], spec.name).tolist() if spec.datatype == "BYTES" else inputs[spec.name]
        table = np.empty((len(next(iter(inputs.values()))), len(self.columns)), object)
        for position, column in enumerate(self.columns):
            array = inputs[column.name]
            table[:, position] = (_decode(array, column.name) if column.text else array)[:, 0]
        return table

    def answer(self, estimator: Any, rows: Any) -> dict[str, Array]:
        """Call the estimator's methods.

        Raises:
            InvalidInput: a value in the rows is not one that it takes.
            ModelError: it failed for another reason.
        """
        try:
            with np.errstate(all="ignore"):
                answers = [getattr(estimator, method)(rows) for method in self.methods]
            specs = zip(self.signature.outputs, answers, strict=True)
            return {spec.name: _as(spec.datatype, answer) for spec, answer in specs}
        except ValueError as error:
            raise InvalidInput(f"scikit-learn cannot take these values: {_sentence(error)}") from None
        except Exception as error:
            raise ModelError(f"scikit-learn failed: {_sentence(error)}") from error


def _prepare(estimator: Any) -> None:
    """Settle what would make calls slow, noisy or change their inputs; the answers stay as they are.

    Threads are the server's to give out; rows come as arrays, without names, and go out as arrays;
    an input belongs to the caller.
    """
    for part in parts(estimator):
        held = vars(part) if hasattr(part, "__dict__") else {}
        held.pop("feature_names_in_", None)
        held.pop("_sklearn_output_config", None)
        if "n_jobs" in held:
            part.n_jobs = 1
        if held.get("copy") is False:
            part.copy = True
        if type(part).__name__ == "ColumnTransformer":
            places = part._transformer_to_input_indices
            part.transformers_ = [
                (
                    name,
                    step,
                    places[name][0] if np.isscalar(columns) else columns if callable(columns) else list(places[name]),
                )
                for name, step, columns in part.transformers_
            ]


def read(file: str, estimator: Any) -> Reading:
    """Find out what the estimator takes and gives, and make it ready to be called.

    Raises:
        BundleError: it is not fitted, cannot answer new rows, or gives what is no tensor.
    """
    inputs, columns = _inputs(file, estimator)
    _prepare(estimator)
    methods = _methods(file, estimator)
    trial = Reading(Signature(inputs, ()), (), columns)
    reason = ""
    for value in _TRIALS:
        rows = trial.rows({spec.name: _made_up(spec, value) for spec in inputs})
        try:
            with np.errstate(all="ignore"):
                answers = [getattr(estimator, method)(rows) for _, method in methods]
        except Exception as error:  # noqa: BLE001 - whatever an estimator raises, another row may do
            reason = reason or _sentence(error)
            continue
        outputs = tuple(_output(file, name, answer) for (name, _), answer in zip(methods, answers, strict=True))
        return Reading(Signature(inputs, outputs), tuple(method for _, method in methods), columns)
    raise BundleError(f"{file}: {type(estimator).__name__} answers no made-up row: {reason}")


def _inputs(file: str, estimator: Any) -> tuple[tuple[TensorSpec, ...], tuple[Column, ...]]:
    width = getattr(estimator, "n_features_in_", None)
    if width is None:
        if any(hasattr(step, "build_analyzer") for step in _first_steps(estimator)):
            return (TensorSpec("input", "BYTES", (-1,)),), ()
        raise BundleError(f"{file}: {type(estimator).__name__} is not fitted, or does not say how many columns it has")
    given = getattr(estimator, "feature_names_in_", None)
    names = [f"x{position}" for position in range(width)] if given is None else [str(name) for name in given]
    found = dict(_columns(estimator, range(width)))
    # Columns of their own only where a matrix of numbers will not do: made-up numbers are not among an encoder's.
    if not any(column.text or column.strict for column in found.values()):
        return (TensorSpec("input", "FP64", (-1, width), columns=tuple(names) if given is not None else ()),), ()
    columns = tuple(
        msgspec.structs.replace(found.get(position, Column("")), name=name) for position, name in enumerate(names)
    )
    return tuple(_column_spec(column) for column in columns), columns


def _column_spec(column: Column) -> TensorSpec:
    sample: Any = column.values[0] if column.values else None
    if not column.text:
        sample = float(sample) if column.strict else None
    return TensorSpec(column.name, "BYTES" if column.text else "FP64", (-1, 1), sample=sample)


def _first_steps(estimator: Any) -> Iterator[Any]:
    """What sees the rows first; a step that keeps columns in their places is followed by the next."""
    kind = type(estimator).__name__
    if kind in {"Pipeline", "FeatureUnion"}:
        for _, step in estimator.steps if kind == "Pipeline" else estimator.transformer_list:
            if isinstance(step, str) or step is None:
                continue
            yield from _first_steps(step)
            if kind == "Pipeline" and (type(step).__name__ != "SimpleImputer" or step.add_indicator):
                return
    elif hasattr(estimator, "best_estimator_"):
        yield from _first_steps(estimator.best_estimator_)
    elif kind == "FrozenEstimator":
        yield from _first_steps(estimator.estimator)
    else:
        yield estimator


def _columns(estimator: Any, positions: Sequence[int]) -> Iterator[tuple[int, Column]]:
    """Position and nature of each column that is not merely numbers."""
    for step in _first_steps(estimator):
        kind = type(step).__name__
        if kind == "ColumnTransformer":
            for name, transformer, _ in step.transformers_:
                if not isinstance(transformer, str):
                    inner = [positions[index] for index in step._transformer_to_input_indices[name]]
                    yield from _columns(transformer, inner)
        elif hasattr(step, "build_analyzer"):
            yield positions[0], Column("", text=True)
        elif kind in _ENCODERS:
            strict = getattr(step, "handle_unknown", "") == "error"
            for position, categories in zip(positions, step.categories_, strict=False):
                values = tuple(categories.tolist())
                text = any(isinstance(value, str) for value in values)
                yield position, Column("", text, tuple(v for v in values if isinstance(v, str) == text), strict)
        elif kind == "SimpleImputer":
            for position, value in zip(positions, step.statistics_.tolist(), strict=False):
                if isinstance(value, str):
                    yield position, Column("", text=True, values=(value,))


def _methods(file: str, estimator: Any) -> list[tuple[str, str]]:
    from sklearn.base import is_classifier, is_regressor

    if is_classifier(estimator):
        several = isinstance(getattr(estimator, "classes_", None), list)
        graded = hasattr(estimator, "predict_proba") and not several
        return [("label", "predict"), *([("probabilities", "predict_proba")] if graded else [])]
    if is_regressor(estimator):
        return [("output", "predict")]
    if hasattr(estimator, "predict"):
        # Clusters and outliers.
        return [("label", "predict")]
    if hasattr(estimator, "transform"):
        return [("transformed", "transform")]
    raise BundleError(f"{file}: {type(estimator).__name__} can neither predict nor transform new rows")


def _made_up(spec: TensorSpec, value: float) -> Array:
    shape = tuple(abs(size) for size in spec.shape)
    if spec.datatype == "BYTES":
        return np.full(shape, str(spec.sample or "word").encode(), object)
    return np.full(shape, value if spec.sample is None else spec.sample)


def _output(file: str, name: str, answer: Any) -> TensorSpec:
    array = _dense(answer)
    datatypes = {"f": "FP64", "i": "INT64", "u": "INT64", "b": "BOOL", "O": "BYTES", "U": "BYTES", "S": "BYTES"}
    if name == "probabilities":
        datatype = "FP32"
    elif array.dtype.kind in datatypes:
        datatype = datatypes[array.dtype.kind]
    else:
        raise BundleError(f"{file} answers with {array.dtype}, which cannot be served")
    return TensorSpec(name, datatype, (-1, *array.shape[1:]))


def _as(datatype: str, answer: Any) -> Array:
    array = _dense(answer)
    return encode_text(array) if datatype == "BYTES" else array.astype(DATATYPES[datatype])


def _dense(answer: Any) -> Array:
    return np.asarray(answer.toarray() if hasattr(answer, "toarray") else answer)


def encode_text(array: Array) -> Array:
    """An object array of `bytes`, UTF-8, of the same shape."""
    encoded = np.empty(array.size, object)
    encoded[:] = [value if isinstance(value, bytes) else str(value).encode() for value in array.ravel().tolist()]
    return encoded.reshape(array.shape)


def _decode(array: Array, name: str) -> Array:
    decoded = np.empty(array.size, object)
    try:
        decoded[:] = [value.decode() for value in array.ravel()]
    except UnicodeDecodeError as error:
        raise InvalidInput(f"input {name!r} holds bytes that are not UTF-8 text: {error}", field=name) from None
    return decoded.reshape(array.shape)


def _sentence(error: Exception) -> str:
    return str(error).partition("\n")[0].strip()[:300] or type(error).__name__
