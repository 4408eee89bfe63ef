"""A row that makes the model fail, among others that do not."""

import socket

import httpx2
import numpy as np

from rung.testing import models


def test_one_poisoned_request_of_32_fails_alone(serve, tmp_path):
    served = serve(models.poison(tmp_path / "poison.onnx"))
    rows = np.random.default_rng(0).standard_normal((32, 4)).astype(np.float32)
    rows[13, 0] = 2e30
    head = (
        b"POST /predict/poison HTTP/1.1\r\nHost: x\r\nContent-Length: 16\r\n"
        b"Content-Type: application/octet-stream\r\nAccept: application/octet-stream\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        # In one piece, so that they are read in one turn and share a call.
        connection.sendall(b"".join(head + row.tobytes() for row in rows))
        stream = connection.makefile("rb")
        answers = []
        for _ in rows:
            status = int(stream.readline().split()[1])
            length = 0
            while line := stream.readline().strip().lower():
                name, _, value = line.partition(b":")
                length = int(value) if name == b"content-length" else length
            answers.append((status, stream.read(length)))
        stream.close()
    assert [status for status, _ in answers] == [200] * 13 + [500] + [200] * 18
    for number, (_, body) in enumerate(answers):
        if number != 13:
            assert body == (rows[number] * np.float32(2)).tobytes()
    stats = httpx2.get(f"{served.url}/v2/models/poison/stats").json()["model_stats"][0]
    assert stats["inference_stats"]["fail"]["count"] == 1
    assert stats["inference_stats"]["success"]["count"] == 31
