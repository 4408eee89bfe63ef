"""TensorFlow SavedModels, in a process of their own.

A SavedModel is a program: it may come from strangers, so its process has no credentials in its environment, writes
no files, and does not load operators that read files or run Python.
"""

from importlib.util import find_spec
from pathlib import Path

from rung.domain.errors import BundleError, MissingDependency
from rung.ports import LoadOptions
from rung.runtimes.isolated import IsolatedModel, Program, open_isolated, scrubbed

__all__ = ["TensorFlowRuntime"]

_CHILD = "rung.runtimes.tensorflow_child"
_GRAPH = ("saved_model.pb", "saved_model.pbtxt")
_ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "3"}


class TensorFlowRuntime:
    """Loads the folders that `tf.saved_model.save` and `model.export` of Keras write."""

    name = "tensorflow"

    def recognises(self, path: Path) -> bool:
        """By the graph's file in the folder."""
        return path.is_dir() and any((path / name).is_file() for name in _GRAPH)

    def load(self, artifact: Path | str, options: LoadOptions) -> IsolatedModel:
        """Start the process and wait until it has loaded the model.

        Raises:
            BundleError: it is no SavedModel, damaged, has several signatures of which none is chosen, or
                operators that it may not or cannot use.
            MissingDependency: TensorFlow is not installed.
        """
        path = Path(artifact)
        if not self.recognises(path):
            raise BundleError(f"{path.name} is no SavedModel: it has to be a folder with {_GRAPH[0]} and variables/")
        if find_spec("tensorflow") is None:
            raise MissingDependency(f'{path.name} needs TensorFlow: pip install "rung[tensorflow]"')
        arguments = (str(path.resolve()), str(max(1, options.threads)))
        environment = scrubbed(_ENVIRONMENT)
        program = Program(path.name, _CHILD, arguments, options.memory, options.hang_after, environment)
        return open_isolated("tensorflow_savedmodel", program)
