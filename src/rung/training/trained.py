"""What `train` may return, and how that becomes a file that a runtime loads."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from rung.domain.errors import InvalidInput, TrainingFailed
from rung.domain.models import Step, Transforms
from rung.domain.tensors import Array
from rung.runtimes.sklearn_files import import_skops

__all__ = ["Trained", "with_columns", "wrap", "write"]


class Trained(msgspec.Struct):
    """A model with what serving it takes beyond itself. Return the model alone where nothing has to be said."""

    model: Any
    """An estimator of scikit-learn, XGBoost or LightGBM, a torch module, or the path of a model file."""
    transforms: Transforms | None = None
    """None: the columns of `ctx.data.arrays`, where that was used, and the output step of the task."""
    labels: tuple[str, ...] = ()
    example: Mapping[str, Array] | None = None
    """For a torch module: its inputs by name, in the order of `forward`, two rows or more. The first are kept as
    golden examples."""
    outputs: Sequence[str] = ("output",)
    """For a torch module: names of what it returns."""
    golden: Sequence[Mapping[str, Array]] = ()
    """Inputs whose answers are kept, and compared wherever the version is loaded."""
    metrics: dict[str, float] = {}
    description: str = ""


def write(trained: Trained, folder: Path) -> Path:
    """Write the model into `folder` in the format of its framework; never as a pickle.

    Raises:
        TrainingFailed: it is nothing that a runtime loads.
        MissingDependency: what writes it is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = trained.model
    if isinstance(model, str | Path):
        path = Path(model)
        if not path.exists():
            raise TrainingFailed(f"train returned the path {path}, and there is nothing")
        return path.resolve()
    for module, writer in _WRITERS.items():
        if any(kind.__module__.partition(".")[0] == module for kind in type(model).__mro__):
            return writer(trained, folder)
    what = "nothing" if model is None else f"a {type(model).__module__}.{type(model).__qualname__}"
    raise TrainingFailed(
        f"train returned {what}: return an estimator of scikit-learn, XGBoost or LightGBM, a torch module in "
        "Trained(module, example=...), or the path of a model file"
    )


def _torch(trained: Trained, folder: Path) -> Path:
    from rung.training.torch_steps import export

    if not trained.example:
        raise TrainingFailed(
            'a torch module needs an example of its inputs: return Trained(module, example={"x": array with 2 rows})'
        )
    short = [name for name, array in trained.example.items() if np.ndim(array) < 1 or len(array) < 2]
    if short:
        raise TrainingFailed(f"the example of input {short[0]!r} needs two rows, so that their number stays free")
    export(trained.model, folder / "model.onnx", trained.example, trained.outputs)
    return folder / "model.onnx"


def _sklearn(trained: Trained, folder: Path) -> Path:
    import_skops("a scikit-learn model").dump(trained.model, folder / "model.skops")
    return folder / "model.skops"


def _xgboost(trained: Trained, folder: Path) -> Path:
    model = trained.model
    if hasattr(model, "get_booster"):
        model = model.get_booster()
    model.save_model(folder / "model.ubj")
    return folder / "model.ubj"


def _lightgbm(trained: Trained, folder: Path) -> Path:
    model = getattr(trained.model, "booster_", trained.model)
    model.save_model(str(folder / "model.txt"))
    return folder / "model.txt"


_WRITERS: dict[str, Callable[[Trained, Path], Path]] = {
    # Before scikit-learn, whose base classes the estimators of both have.
    "xgboost": _xgboost,
    "lightgbm": _lightgbm,
    "sklearn": _sklearn,
    "torch": _torch,
}


def wrap(returned: Any) -> Trained:
    """What `train` returned, in its long form.

    Raises:
        TrainingFailed: it returned nothing.
    """
    if returned is None:
        raise TrainingFailed("train returned nothing: return the model that it trained")
    trained = returned if isinstance(returned, Trained) else Trained(returned)
    if trained.transforms is not None and not isinstance(trained.transforms, Transforms):
        raise InvalidInput("Trained(transforms=...) takes a Transforms of input and output steps", field="transforms")
    return trained


def with_columns(trained: Trained, step: Step | None) -> Transforms:
    """The transforms of the version: those that were said, else the fitted columns."""
    if trained.transforms is not None:
        return trained.transforms
    return Transforms(input=(step,) if step is not None else ())
