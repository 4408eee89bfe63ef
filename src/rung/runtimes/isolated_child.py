"""The process in which a model runs: loads it, says what it declares, answers until the parent leaves.

A runtime's child is a module whose `main` calls `attach` and then `answer`, before anything heavy is imported.
"""

import contextlib
import ctypes
import re
import resource
import sys
import tempfile
import warnings
from collections.abc import Callable

import msgspec

from rung.channel import Channel
from rung.domain.errors import BundleError, InvalidInput, ModelError
from rung.domain.tensors import DATATYPES, Signature, Tensors

__all__ = ["Declared", "Predict", "answer", "check_fits", "sandbox", "summary"]

Predict = Callable[[Tensors, int], Tensors]
"""Inputs and the number of cores that the call may use -> outputs."""

_LONGEST = 500
_NO_NEW_PRIVILEGES = 38
"""PR_SET_NO_NEW_PRIVS of Linux."""


class Declared(msgspec.Struct):
    """What a program says about itself; the child's first message."""

    signature: Signature
    lanes: int = 1
    """Processes to run."""


def answer(
    channel: Channel, load: Callable[[], tuple[Declared, Predict]], describe: Callable[[Exception], str]
) -> None:
    """Load, declare, and answer one call after another until the parent ends.

    `describe` puts an exception of the framework, or of the user's code, into words.
    """
    try:
        declared, predict = load()
    except BundleError as error:
        channel.send("refused", str(error))
        return
    except Exception as error:  # noqa: BLE001 - frameworks and users' code may raise anything
        channel.send("refused", f"loading it raised {describe(error)}")
        return
    channel.send("ready", msgspec.to_builtins(declared))
    while True:
        try:
            message = channel.receive()
        except EOFError:
            return
        try:
            outputs = predict(message.tensors, int(message.detail or 1))
        except InvalidInput as error:
            channel.send("invalid", [str(error), error.field])
        except ModelError as error:
            channel.send("failed", str(error))
        except Exception as error:  # noqa: BLE001 - frameworks and users' code may raise anything
            channel.send("failed", f"predict raised {describe(error)}")
        else:
            channel.send("answer", None, outputs)


def summary(error: Exception) -> str:
    """The type of a framework's exception and what it says first, without stack traces of its own."""
    said = str(error).strip()
    if said.startswith("The following operation failed"):
        # TorchScript puts its traceback first and what was raised last.
        said = said.rpartition("\n")[2]
    # TensorFlow says first where it happened.
    said = re.sub(
        r"^Graph execution error:\s*(Detected at node .*?<stack traces unavailable>)?", "", said, flags=re.DOTALL
    )
    said = re.split(r"\n\s*\n|\nException raised from |\s*\[\[\{\{node|\s*\[Op:", said.strip())[0]
    kind = "" if said.startswith("builtins.") else f"{type(error).__name__}: "
    return f"{kind}{' '.join(said.split())}"[:_LONGEST]


def sandbox() -> None:
    """Give up what no model needs: writing files, and gaining rights by starting programs.

    For programs that strangers made; what they may use of memory the parent has set.
    """
    tempfile.gettempdir()  # found by writing to it, which libraries want to do when they are imported
    sys.dont_write_bytecode = True
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)


def check_fits(outputs: Tensors, signature: Signature, inputs: Tensors) -> Tensors:
    """Return `outputs` if they fit the signature.

    Raises:
        ModelError: a name, datatype, shape or number of rows is another.
    """
    rows = inputs[signature.inputs[0].name].shape[:1] if signature.batched else ()
    for spec in signature.outputs:
        array = outputs.get(spec.name)
        if array is None:
            raise ModelError(f"there is no output {spec.name!r}; there are {list(outputs)}")
        if array.dtype != DATATYPES[spec.datatype] or not spec.admits(array.shape):
            raise ModelError(
                f"output {spec.name!r} is {array.dtype} {list(array.shape)}; "
                f"the signature says {spec.datatype} {list(spec.shape)}"
            )
        if rows and array.shape[:1] != rows:
            raise ModelError(f"output {spec.name!r} has {array.shape[0]} rows for {rows[0]} rows of input")
    return {spec.name: outputs[spec.name] for spec in signature.outputs}
