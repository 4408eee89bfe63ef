"""Requests that wait, over real sockets."""

import selectors
import socket

import pytest

from rung.fleet.front.hold import Hold


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def place(tmp_path):
    clock, selector = Clock(), selectors.DefaultSelector()
    hold = Hold(selector, 20.0, clock)
    path = str(tmp_path / "hold.sock")
    hold.open(path)
    callers: list[socket.socket] = []

    def call(text: bytes) -> socket.socket:
        caller = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        callers.append(caller)
        caller.settimeout(5.0)
        caller.connect(path)
        caller.sendall(text)
        turn()
        return caller

    def turn() -> None:
        while ready := selector.select(0):
            for key, _ in ready:
                key.data()

    yield hold, clock, call, turn
    for caller in callers:
        caller.close()
    turn()
    hold.close()
    selector.close()


def answer(caller: socket.socket) -> bytes:
    found = b""
    while piece := caller.recv(4096):
        found += piece
    return found


POST = b"POST /predict/m HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody"


def test_a_prediction_waits_for_a_replica(place):
    hold, _, call, turn = place
    callers = [call(POST) for _ in range(3)]
    assert hold.waiting == 3

    hold.release()
    assert hold.waiting == 0
    for caller in callers:
        said = answer(caller)
        assert said.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 1\r\n" in said
        assert said.endswith(b'{"error":"no replica can answer now; try again in a second"}')
    turn()


def test_nobody_waits_for_ever_and_who_leaves_does_not_wait(place):
    hold, clock, call, turn = place
    first = call(POST)
    clock.now = 15.0
    second = call(POST)
    clock.now = 20.0
    hold.expire()
    assert hold.waiting == 1
    assert answer(first).startswith(b"HTTP/1.1 503 ")

    second.close()
    turn()
    assert hold.waiting == 0


def test_who_only_reads_is_told_at_once(place):
    hold, _, call, _ = place
    assert answer(call(b"GET /readyz HTTP/1.1\r\nhost: a\r\n\r\n")).startswith(b"HTTP/1.1 503 ")
    assert hold.waiting == 0
