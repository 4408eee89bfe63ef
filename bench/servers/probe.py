"""How fast a door can be in one Python process: HTTP, one tensor, inference and nothing else.

A raw asyncio protocol on httptools and uvloop. The requests of one turn of the event loop share one
onnxruntime call, made inline. It speaks the raw bytes of `/predict/tiny` and the Open Inference
Protocol in JSON and binary, checks what it must to answer right, and owes none of what a server
owes: no limits, deadlines, pipelining, errors or drain. usage: probe.py MODEL PORT
"""

import asyncio
import sys
from time import perf_counter_ns

import httptools
import numpy as np
import onnxruntime
import orjson
import uvloop

PREDICT, INFER = b"/predict/tiny", b"/v2/models/tiny/infer"
BINARY = b"application/octet-stream"
COLUMNS, OUTPUT_BYTES = 16, 12


class Batch:
    """What came in during this turn of the loop."""

    def __init__(self, session: onnxruntime.InferenceSession, loop: asyncio.AbstractEventLoop) -> None:
        self._session = session
        self._loop = loop
        self._waiting: list[tuple[Connection, bytes]] = []
        self.histogram = [0] * 64
        """Replies by the bit length of their nanoseconds: the one statistic that a server cannot do without."""

    def add(self, connection: "Connection", row: bytes) -> None:
        self._waiting.append((connection, row))
        if len(self._waiting) == 1:
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        waiting, self._waiting = self._waiting, []
        rows = b"".join([row for _, row in waiting])
        y = self._session.run(None, {"x": np.frombuffer(rows, np.float32).reshape(-1, COLUMNS)})[0]
        raw = y.tobytes()
        for index, (connection, _) in enumerate(waiting):
            connection.reply(raw[index * OUTPUT_BYTES : (index + 1) * OUTPUT_BYTES], y[index])
            self.histogram[(perf_counter_ns() - connection.arrived).bit_length()] += 1


class Connection(asyncio.Protocol):
    """One client, one request at a time."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._body = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"content-type":
            self._media = value
        elif name == b"inference-header-content-length":
            self._header_length = int(value)

    def on_body(self, data: bytes) -> None:
        self._body = self._body + data if self._body else data

    def on_message_complete(self) -> None:
        self.arrived = perf_counter_ns()
        body, self._body = self._body, b""
        self._form = PREDICT
        if self._url == INFER:
            self._form = BINARY if self._media == BINARY else INFER
            length = self._header_length if self._form == BINARY else len(body)
            tensor = orjson.loads(body[:length])["inputs"][0]
            if tensor["name"] != "x" or tensor["shape"] != [1, COLUMNS] or tensor["datatype"] != "FP32":
                raise ValueError(tensor)
            body = body[length:] if self._form == BINARY else np.array(tensor["data"], np.float32).tobytes()
        elif self._url != PREDICT:
            raise ValueError(self._url)
        self._batch.add(self, body)

    def reply(self, raw: bytes, values: np.ndarray) -> None:
        if self._form == PREDICT:
            self._write(BINARY, b"", raw)
            return
        output = {"name": "y", "datatype": "FP32", "shape": [1, 3]}
        reply = {"model_name": "tiny", "model_version": "1", "outputs": [output]}
        if self._form == INFER:
            output["data"] = values.tolist()
            self._write(b"application/json", b"", orjson.dumps(reply))
            return
        output["parameters"] = {"binary_data_size": OUTPUT_BYTES}
        header = orjson.dumps(reply)
        self._write(BINARY, b"inference-header-content-length: %d\r\n" % len(header), header + raw)

    def _write(self, media: bytes, extra: bytes, body: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n%bcontent-length: %d\r\n\r\n"
        self._transport.write(head % (media, extra, len(body)) + body)


async def main(model: str, port: int) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    loop = asyncio.get_running_loop()
    batch = Batch(session, loop)
    server = await loop.create_server(lambda: Connection(batch), "127.0.0.1", port, backlog=512)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
