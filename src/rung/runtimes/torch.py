"""PyTorch models, in a process of their own: exported programs (`.pt2`) and TorchScript.

A checkpoint that `torch.save` wrote is a pickle and refused. What is loaded may come from strangers: the process
has no credentials in its environment, writes no files and unpickles tensors only.
"""

from importlib.util import find_spec
from pathlib import Path

from rung.domain.errors import BundleError, MissingDependency
from rung.ports import LoadOptions
from rung.runtimes.isolated import IsolatedModel, Program, open_isolated, scrubbed
from rung.runtimes.torch_files import is_exported, is_torchscript

__all__ = ["TorchRuntime"]

_CHILD = "rung.runtimes.torch_child"
_ENVIRONMENT = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "KMP_BLOCKTIME": "0"}
"""Unpickle nothing but tensors; threads that wait leave the core to others."""


class TorchRuntime:
    """Loads what `torch.export.save` and `torch.jit.save` write."""

    name = "torch"

    def recognises(self, path: Path) -> bool:
        """By the suffix `.pt2`, else by what the zip holds."""
        return path.is_file() and (path.suffix == ".pt2" or is_exported(path) or is_torchscript(path))

    def load(self, artifact: Path | str, options: LoadOptions) -> IsolatedModel:
        """Start the process and wait until it has loaded the model.

        Raises:
            BundleError: it is neither kind of file, damaged, or would run code; a TorchScript model without shapes.
            MissingDependency: PyTorch is not installed.
        """
        path = Path(artifact)
        if not path.is_file():
            raise BundleError(f"there is no file {path.name}")
        exported, script = is_exported(path), is_torchscript(path)
        if not exported and not script:
            raise BundleError(
                f"{path.name} is neither an exported program nor TorchScript: write one with "
                "torch.export.save(torch.export.export(model, examples), 'model.pt2')"
            )
        if find_spec("torch") is None:
            raise MissingDependency(f'{path.name} needs PyTorch: pip install "rung[torch]"')
        arguments = ("exported" if exported else "script", str(path.resolve()))
        environment = scrubbed(_ENVIRONMENT)
        platform = "pytorch_exported" if exported else "pytorch_libtorch"
        program = Program(path.name, _CHILD, arguments, options.memory, options.hang_after, environment)
        return open_isolated(platform, program)
