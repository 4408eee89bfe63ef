"""The same model behind mosec: float32 rows as raw bytes in and out.

usage: mosec_server.py --model MODEL --address HOST --port PORT [--workers N] [--batch ROWS]
mosec itself reads --address and --port.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import onnxruntime
from mosec import Server, Worker

SHAPES = {"tiny": (16,), "seg": (3, 128, 128)}
MODEL = "BENCH_MODEL"
"""mosec starts its workers afresh, so the model's path travels in the environment."""


class Inference(Worker):
    """One session of one thread; mosec adds workers for more cores."""

    resp_mime_type = "application/octet-stream"

    def __init__(self) -> None:
        path = Path(os.environ[MODEL])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._shape = SHAPES[path.stem]

    def deserialize(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, np.float32).reshape(self._shape)

    def serialize(self, data: np.ndarray) -> bytes:
        return data.tobytes()

    def forward(self, data):  # a list with batching, else one item
        if isinstance(data, list):
            return list(self._session.run(None, {"x": np.stack(data)})[0])
        return self._session.run(None, {"x": data[np.newaxis]})[0]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    chosen, _ = parser.parse_known_args()
    os.environ[MODEL] = chosen.model
    server = Server()
    # Of the waits that can be set (whole milliseconds) the shortest is the fastest at 32 connections.
    route = f"/predict/{Path(chosen.model).stem}"
    server.append_worker(Inference, num=chosen.workers, max_batch_size=chosen.batch, max_wait_time=1, route=route)
    server.run()
