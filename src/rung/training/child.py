"""The process that trains: `python -m rung.training.child`, started by `training.run`.

It gets one message with all that it has to know, tells events, and ends. What it makes lies in the run's folder;
it registers nothing, so that a process that dies cannot leave half a version.
"""

import importlib
import os
import random
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from rung.channel import Channel
from rung.domain.errors import ConfigurationError, RungError
from rung.processes import attach
from rung.training.orders import Order

__all__ = ["main"]

_TORCH = re.compile(r"^\s*(import|from)\s+torch\b", re.MULTILINE)


class _Teller:
    """Sends events, and hears when it is asked to stop."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._asked = threading.Event()

    def tell(self, event: Any) -> None:
        with self._lock:
            self._channel.send("event", msgspec.to_builtins(event))

    def fail(self, kind: str, text: str, trace: str = "") -> None:
        with self._lock:
            self._channel.send("failed", {"kind": kind, "text": text, "trace": trace})

    def asked(self) -> bool:
        return self._asked.is_set()

    def listen(self) -> None:
        threading.Thread(target=self._hear, daemon=True).start()

    def _hear(self) -> None:
        try:
            while True:
                if self._channel.receive().kind == "stop":
                    self._asked.set()
        except (EOFError, OSError, ValueError):
            return


def main() -> int:
    """Train, as the first message says."""
    channel = attach()
    order = msgspec.convert(channel.receive().detail, Order)
    teller = _Teller(channel)
    teller.listen()
    try:
        _train(order, teller)
    except RungError as error:
        teller.fail(type(error).__name__, str(error))
    except MemoryError:
        teller.fail("TrainingFailed", _out_of_memory(order), traceback.format_exc())
    except Exception as error:  # noqa: BLE001 - whatever the user's code raises is told, with its place.
        text = str(error)
        if "can't allocate memory" in text or "bad allocation" in text or "bad_alloc" in text:
            teller.fail("TrainingFailed", _out_of_memory(order), traceback.format_exc())
        else:
            teller.fail("TrainingFailed", _where(error, Path(order.project)), traceback.format_exc())
    return 0


def _train(order: Order, teller: _Teller) -> None:
    spec, project = order.spec, Path(order.project)
    os.chdir(project)
    sys.path.insert(0, str(project))
    threads = spec.threads or max(1, len(os.sched_getaffinity(0)) // spec.workers)
    # Before the libraries that read it once.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    function = _function(spec.train)
    from rung.training.session import prepare

    _import_torch_for(spec.train)
    session = prepare(order, function, threads, teller.tell, teller.asked)
    begun = time.monotonic()
    with session.together():
        _seed(spec.seed, order.rank)
        returned = function(session.context)
        session.context.end()
    if order.rank == 0:
        teller.tell(session.produce(returned, time.monotonic() - begun))
    else:
        # Nothing is left to do, and torch's own threads now and then abort a process that ends by itself.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _import_torch_for(name: str) -> None:
    """Where the file of `train` imports torch within a function, import it now: it is seeded, and finds the device."""
    file = sys.modules[name.partition(":")[0]].__file__ or ""
    if file and "torch" not in sys.modules and _TORCH.search(Path(file).read_text(errors="replace")):
        with suppress(ImportError):
            importlib.import_module("torch")


def _seed(seed: int, rank: int = 0) -> None:
    """Seed random, numpy, and torch where `train` has imported it; each process draws its own numbers."""
    random.seed(seed + rank)
    import numpy as np

    np.random.seed((seed + rank) % 2**32)
    if "torch" in sys.modules:
        import torch

        # The same in all of them: they begin with equal weights.
        torch.manual_seed(seed)


def _function(name: str) -> Callable[[Any], Any]:
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ConfigurationError(f"train = {name!r} will not do: name it as module:function, such as model:train")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise ConfigurationError(f"{module}.py imports {error.name}, which is not installed") from None
        raise ConfigurationError(f"train = {name!r}: there is no {module}.py in this folder") from None
    except AttributeError:
        raise ConfigurationError(f"train = {name!r}: {module}.py has no function {attribute}") from None
    if not callable(function):
        raise ConfigurationError(f"train = {name!r} is no function")
    found: Callable[[Any], Any] = function
    return found


def _out_of_memory(order: Order) -> str:
    limit = f"its limit of {order.spec.memory >> 20} MiB" if order.spec.memory else "what the machine has"
    return (
        f"training ran out of memory: it needs more than {limit}. Use smaller batches, "
        "ctx.recompute, or raise memory in [models.NAME.run]"
    )


def _where(error: BaseException, project: Path) -> str:
    """The user's own line that failed, and why."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(project)]
    place = f"{Path(own[-1].filename).relative_to(project)}:{own[-1].lineno}: " if own else ""
    return f"{place}{type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.exit(main())
