"""Smaller and faster versions of a registered ONNX model, each with a report and a gate."""

from rung.training.compress.plans import Wanted
from rung.training.compress.run import Outcome, compress

__all__ = ["Outcome", "Wanted", "compress"]
