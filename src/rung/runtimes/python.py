"""A Python class of the user's own, in processes of its own: what it does there never touches the server.

    class Doubler:
        inputs = {"x": ("FP32", [-1, 4])}
        outputs = {"y": ("FP32", [-1, 4])}

        def predict(self, x):
            return {"y": x * 2}

Optional: `load()`, called once in the process; `batched = False` where rows depend on each other;
`lanes = N` for N processes.
"""

import re
from pathlib import Path

from rung.domain.errors import BundleError
from rung.ports import LoadOptions
from rung.runtimes.isolated import IsolatedModel, Program, open_isolated

__all__ = ["PythonRuntime"]

_REFERENCE = re.compile(r"([\w.]+|.+\.py):[A-Za-z_]\w*")
_CHILD = "rung.runtimes.python_child"


class PythonRuntime:
    """Loads `module:Class` and `path/to/file.py:Class`, for users who gave it themselves."""

    name = "python"

    def recognises(self, path: Path) -> bool:
        """By the form; no file is a Python model, so that no uploaded one can be."""
        return not path.exists() and _REFERENCE.fullmatch(str(path)) is not None

    def load(self, artifact: Path | str, options: LoadOptions) -> IsolatedModel:
        """Start the processes and wait until each has imported and loaded the class.

        Raises:
            BundleError: it is not trusted, cannot be imported, or does not declare itself properly.
        """
        reference = str(artifact)
        if not options.trusted:
            raise BundleError(
                f"{reference} is code: it runs only where it is named on the command line or in rung.toml"
            )
        if not _REFERENCE.fullmatch(reference):
            raise BundleError(f"{reference!r} names no class; write it as module:Class or path/to/file.py:Class")
        arguments = (reference, options.search_path)
        return open_isolated("python", Program(reference, _CHILD, arguments, options.memory, options.hang_after))
