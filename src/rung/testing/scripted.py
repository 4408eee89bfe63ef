"""A `ports.Model` whose behaviour a test decides. It stands in for a framework, never for what is under test."""

import threading
import time

import numpy as np

from rung.domain.errors import ModelError, WorkerDied
from rung.domain.tensors import Signature, Tensors, TensorSpec

__all__ = ["ScriptedModel"]


class ScriptedModel:
    """Doubles float32 [N, columns]; a row above 1e30 poisons the whole call.

    `gate` holds calls until it is set, `deaths` counts calls that lose their worker, `seconds` is what
    a call takes. `calls` lists the rows of each call, `first` the first number of each row seen.
    """

    platform = "scripted"
    lanes = 0
    inline = True

    def __init__(self, columns: int = 2, *, batched: bool = True, seconds: float = 0.0) -> None:
        spec = TensorSpec("x", "FP32", (-1, columns))
        self.signature = Signature((spec,), (TensorSpec("y", "FP32", (-1, columns)),), batched)
        self.seconds = seconds
        self.calls: list[int] = []
        self.first: list[float] = []
        self.gate: threading.Event | None = None
        self.entered = threading.Event()
        self.deaths = 0
        self.closed = False

    def predict(self, inputs: Tensors, threads: int = 1) -> Tensors:
        """Double the rows, or do as told."""
        x = inputs["x"]
        self.calls.append(len(x))
        self.first += x[:, 0].tolist()
        self.entered.set()
        if self.gate is not None and not self.gate.wait(30):
            raise ModelError("the gate of the scripted model was never opened")
        if self.seconds:
            time.sleep(self.seconds)
        if self.deaths:
            self.deaths -= 1
            raise WorkerDied
        if (x > 1e30).any():
            raise ModelError("a row is poison")
        return {"y": x * np.float32(2)}

    def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True
