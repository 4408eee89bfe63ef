"""Smaller and faster versions of a registered ONNX model, each with a report and a gate."""
