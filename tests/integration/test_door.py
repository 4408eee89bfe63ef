"""What an HTTP client sees of the door, on real sockets: framing, order, refusals, limits, leaving."""

import gzip
import socket
import time
import zlib
from contextlib import suppress

import pytest
import structlog

GET = b"GET /plain HTTP/1.1\r\nHost: door\r\n\r\n"


def held(key: str) -> bytes:
    return f"POST /held/{key} HTTP/1.1\r\nHost: door\r\nContent-Length: 0\r\n\r\n".encode()


# --- order and framing ----------------------------------------------------------------------


def test_replies_come_in_the_order_of_the_requests_however_they_finish(door):
    one = door()
    client = one.client().send(held("slow") + GET + held("slower") + GET)
    one.release("slower")
    one.release("slow")
    assert [client.answer().body for _ in range(4)] == [b"slow", b"plain", b"slower", b"plain"]


def test_a_thousand_pipelined_requests_are_all_answered(door):
    one = door(max_pipelined=8)
    client = one.client()
    for number in range(50):
        client.send(GET * 19 + held(str(number)))
        one.release(str(number))
    answers = [client.answer().body for _ in range(1000)]
    assert answers == [b"plain" if at % 20 != 19 else str(at // 20).encode() for at in range(1000)]


def test_a_client_that_sends_far_ahead_is_read_no_further_until_its_answers_are_due(door):
    one = door(max_pipelined=4)
    client = one.client()
    client.socket.settimeout(0.5)
    with pytest.raises(TimeoutError):
        client.send(held("first") * 1_000_000)
    assert one.bytes_read < 4 << 20


def test_a_connection_is_kept_for_many_requests(door):
    client = door().client()
    assert {client.ask("POST", "/echo", b"%d" % number).body for number in range(20)} == {b"%d" % n for n in range(20)}


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /plain HTTP/1.1\r\nHost: door\r\nConnection: close\r\n\r\n",
        b"GET /plain HTTP/1.0\r\n\r\n",
        b"GET /plain HTTP/1.1\r\nHost: door\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ],
)
def test_a_client_that_wants_no_further_answer_sees_the_connection_close(door, request_bytes):
    client = door().client().send(request_bytes)
    answer = client.answer()
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert client.ended() == b""


def test_head_has_the_headers_of_get_and_no_body(door):
    client = door().client()
    got = client.ask("GET", "/plain")
    head = client.ask("HEAD", "/plain")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == got.headers["content-length"] == "5"
    assert client.ask("GET", "/plain").body == b"plain"


def test_asks_for_the_body_when_the_client_waits_to_be_asked(door):
    client = door().client()
    client.send(b"POST /echo HTTP/1.1\r\nHost: door\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    assert client._until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert client.send(b"abc").answer().body == b"abc"


# --- refusals -------------------------------------------------------------------------------


def test_wrong_paths_and_methods_are_told_apart(door):
    client = door().client()
    lost = client.ask("GET", "/nowhere")
    assert lost.status == 404
    assert b"/nowhere" in lost.body
    wrong = client.ask("DELETE", "/echo")
    assert (wrong.status, wrong.headers["allow"]) == (405, "OPTIONS, POST")
    assert b"use POST" in wrong.body
    options = client.ask("OPTIONS", "/plain")
    assert (options.status, options.headers["allow"]) == (200, "GET, HEAD, OPTIONS")


@pytest.mark.parametrize(
    ("how", "status", "retry"), [("overloaded", 429, "3"), ("loading", 503, "1"), ("late", 504, None)]
)
def test_errors_say_when_to_come_back(door, how, status, retry):
    answer = door().client().ask("GET", f"/fails/{how}")
    assert answer.status == status
    assert answer.headers.get("retry-after") == retry


def test_a_failure_of_ours_tells_the_caller_nothing_of_the_inside(door):
    client = door().client()
    with structlog.testing.capture_logs() as logs:
        answer = client.ask("GET", "/fails/badly")
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert [line["action"] for line in logs] == ["endpoint_failed"]
    assert client.ask("GET", "/plain").status == 200


def test_a_body_announced_as_too_large_is_refused_before_it_is_read(door):
    one = door(max_body=1000)
    client = one.client().send(b"POST /echo HTTP/1.1\r\nHost: door\r\nContent-Length: 1000000000\r\n\r\n")
    answer = client.answer()
    assert answer.status == 413
    assert b"1000" in answer.body
    assert client.ended() == b""


@pytest.mark.parametrize("chunked", [False, True])
def test_a_client_in_the_midst_of_a_huge_body_still_gets_its_413(door, chunked):
    one = door(max_body=1 << 20)
    client = one.client()
    size = 256 << 20
    framing = b"Transfer-Encoding: chunked\r\n" if chunked else b"Content-Length: %d\r\n" % size
    client.send(b"POST /echo HTTP/1.1\r\nHost: door\r\n" + framing + b"\r\n")
    piece = b"10000\r\n" + bytes(0x10000) + b"\r\n" if chunked else bytes(0x10000)
    sent = 0
    try:
        while sent < size:
            sent += client.socket.send(piece)
    except (BrokenPipeError, ConnectionResetError):
        pass
    assert client.answer().status == 413
    assert sent < 32 << 20
    # The limit, what is read away so that the reply is not lost, and one read of the event loop.
    assert one.bytes_read < (1 << 20) + (64 << 10) + 2 * 256_000


@pytest.mark.parametrize(
    "head",
    [
        b"GET /plain HTTP/1.1\r\nHost: door\r\nX: " + b"a" * 5000 + b"\r\n\r\n",
        b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: door\r\n\r\n",
        b"GET /plain HTTP/1.1\r\nHost: door\r\n" + b"X: 1\r\n" * 101 + b"\r\n",
        b"GET /plain HTTP/1.1\r\nX: " + b"a" * 500_000,
        b"POST /echo HTTP/1.1\r\nHost: door\r\nTransfer-Encoding: chunked\r\n\r\n1;x=" + b"a" * 1_000_000,
        b"POST /echo HTTP/1.1\r\nHost: door\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"a" * 1_000_000,
    ],
    ids=["long line", "long target", "many lines", "endless line", "endless chunk extension", "endless trailer"],
)
def test_headers_that_are_too_large_get_431(door, head):
    client = door(max_head=4096).client()
    with suppress(BrokenPipeError, ConnectionResetError):
        client.send(head)
    assert client.answer().status == 431
    assert client.ended() == b""


def test_nonsense_is_refused_after_the_answers_that_are_owed(door):
    one = door()
    client = one.client().send(held("first") + b"\x16\x03\x01 nonsense\r\n\r\n")
    one.release("first")
    assert [client.answer().status, client.answer().status] == [200, 400]
    assert client.ended() == b""


# --- codings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("coding", "encode"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("GZIP", gzip.compress)]
)
def test_compressed_bodies_are_read(door, coding, encode):
    body = b"some text " * 100
    assert door().client().ask("POST", "/echo", encode(body), content_encoding=coding).body == body


@pytest.mark.parametrize(
    ("coding", "body", "status", "word"),
    [
        ("gzip", gzip.compress(bytes(50_000_000)), 413, b"times"),
        ("deflate", zlib.compress(bytes(50_000_000)), 413, b"times"),
        ("gzip", gzip.compress(b"text" * 100)[:-9], 400, b"cut off"),
        ("gzip", b"no gzip at all", 400, b"not valid gzip"),
        ("gzip", gzip.compress(b"a") + b"more", 400, b"follow"),
        ("br", b"whatever", 415, b"br"),
        ("gzip, gzip", gzip.compress(gzip.compress(b"a")), 415, b"gzip, gzip"),
    ],
    ids=["gzip bomb", "deflate bomb", "truncated", "not gzip", "trailing bytes", "brotli", "twice"],
)
def test_bodies_whose_coding_is_bad_are_refused(door, coding, body, status, word):
    client = door().client()
    answer = client.ask("POST", "/echo", body, content_encoding=coding)
    assert answer.status == status
    assert word in answer.body
    assert client.ask("GET", "/plain").status == 200


def test_replies_are_compressed_for_clients_that_ask_and_only_where_it_pays(door):
    client = door().client()
    answer = client.ask("GET", "/json/50000", accept_encoding="gzip, deflate")
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["vary"] == "accept-encoding"
    assert len(gzip.decompress(answer.body)) == 50_000
    for target, accept in [
        ("/json/50000", "identity"),
        ("/json/50000", "gzip;q=0, identity"),
        ("/json/100", "gzip"),
        ("/json/3000000", "gzip"),
        ("/large/50000", "gzip"),
    ]:
        plain = client.ask("GET", target, accept_encoding=accept)
        assert "content-encoding" not in plain.headers
        assert len(plain.body) == int(target.rpartition("/")[2])


# --- clients that are slow, many, or gone ---------------------------------------------------


def lasted(client) -> float:
    started = time.monotonic()
    client.ended()
    return time.monotonic() - started


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"GET /plain HTTP/1.1\r\nHo",
        b"POST /echo HTTP/1.1\r\nHost: door\r\nContent-Length: 100000\r\n\r\nabc",
        b"POST /echo HTTP/1.1\r\nHost: door\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na",
        GET + b"POST /echo HTTP/1.1\r\nHost: door\r\nContent-Length: 100000\r\n\r\n",
    ],
    ids=["nothing", "half a head", "a piece of a body", "half a chunk", "a body behind a request"],
)
def test_a_client_that_stops_midway_is_closed(door, start):
    client = door(head_seconds=0.3, body_seconds=0.3).client().send(start)
    assert lasted(client) < 3.0


@pytest.mark.parametrize(
    "start",
    [b"GET /plain HTTP/1.1\r\nX: ", b"POST /echo HTTP/1.1\r\nHost: door\r\nContent-Length: 100000\r\n\r\n"],
    ids=["head", "body"],
)
def test_a_client_that_drips_is_closed(door, start):
    client = door(head_seconds=0.5, body_seconds=0.5).client().send(start)
    started = time.monotonic()
    with suppress(BrokenPipeError, ConnectionResetError):
        while time.monotonic() - started < 5.0:
            client.send(b"a")
            time.sleep(0.05)
    assert time.monotonic() - started < 3.5


def test_a_head_that_stops_behind_a_slow_request_is_closed_once_that_is_answered(door):
    one = door(head_seconds=0.3)
    client = one.client().send(held("slow") + b"GET /pl")
    one.release("slow")
    assert client.answer().body == b"slow"
    assert lasted(client) < 3.0


def test_a_steady_upload_may_take_longer_than_the_limit_for_a_stall(door):
    client = door(body_seconds=0.5, min_rate=1000).client()
    client.send(b"POST /echo HTTP/1.1\r\nHost: door\r\nContent-Length: 40000\r\n\r\n")
    for _ in range(10):
        client.send(bytes(4000))
        time.sleep(0.1)
    assert len(client.answer().body) == 40_000


def test_a_client_that_does_not_take_its_reply_is_closed(door):
    one = door(body_seconds=0.3)
    client = one.client().send(b"GET /large/50000000 HTTP/1.1\r\nHost: door\r\n\r\n")
    one.wait_for(lambda: one.server.connections == 1)
    one.wait_for(lambda: one.server.connections == 0)
    assert len(client.ended()) < 50_000_000


@pytest.mark.parametrize("connection", ["keep-alive", "close"])
def test_a_steady_download_may_take_longer_than_the_limit_for_a_stall(door, connection):
    one = door(body_seconds=1.0, min_rate=1_000_000)
    client = one.client()
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    client.send(f"GET /large/15000000 HTTP/1.1\r\nHost: door\r\nConnection: {connection}\r\n\r\n".encode())
    received = 0
    while received < 15_000_000:
        data = client.socket.recv(1 << 16)
        assert data, f"it was cut after {received} bytes"
        received += len(data)
        time.sleep(0.008)
    assert received >= 15_000_000


def test_an_idle_connection_is_closed_in_time(door):
    client = door(idle_seconds=0.3).client()
    assert client.ask("GET", "/plain").status == 200
    assert lasted(client) < 4.0


def test_a_request_that_takes_long_is_not_mistaken_for_an_idle_client(door):
    one = door(idle_seconds=0.1, head_seconds=0.1, body_seconds=0.1)
    client = one.client().send(held("long"))
    one.entered("long")
    time.sleep(0.5)  # longer than every limit
    one.release("long")
    assert client.answer().body == b"long"


def test_connections_over_the_limit_are_closed_and_places_become_free_again(door):
    one = door(max_connections=3)
    first = [one.client() for _ in range(3)]
    assert [client.ask("GET", "/plain").status for client in first] == [200] * 3
    assert one.client().ended() == b""
    first[0].socket.close()
    one.wait_for(lambda: one.server.connections == 2)
    assert one.client().ask("GET", "/plain").status == 200


@pytest.mark.parametrize("outcome", [None, RuntimeError("nobody asked")])
def test_a_client_that_leaves_is_not_worked_for(door, outcome):
    one = door()
    client = one.client().send(held("mine"))
    one.entered("mine")
    with structlog.testing.capture_logs() as logs:
        client.socket.close()
        assert one.desk.on(one.desk.cancelled, "mine").wait(5.0)
        one.release("mine", outcome)
        one.wait_for(one.desk.waiting["mine"].done)
        assert one.client().ask("GET", "/plain").status == 200
    assert logs == []


# --- going away, and what is written down ---------------------------------------------------


def test_a_drain_answers_what_came_and_turns_new_connections_away(door):
    one = door(drain_seconds=20.0)
    working, uploading, idle = one.client().send(held("last")), one.client(), one.client()
    uploading.send(b"POST /echo HTTP/1.1\r\nHost: door\r\nContent-Length: 4\r\n\r\nab")
    assert idle.ask("GET", "/plain").status == 200
    one.entered("last")
    one.wait_for(lambda: one.server.connections == 3)
    one.loop.call_soon_threadsafe(lambda: one.loop.create_task(one.server.drain()))
    one.wait_for(lambda: one.server.draining)
    told = idle.ask("GET", "/plain")
    assert (told.status, told.headers["connection"]) == (200, "close")
    assert idle.ended() == b""
    with pytest.raises(ConnectionRefusedError):
        one.client()
    time.sleep(1.5)  # longer than an idle connection has during a drain
    uploaded = uploading.send(b"cd").answer()
    assert (uploaded.body, uploaded.headers["connection"]) == (b"abcd", "close")
    one.release("last")
    assert working.answer().body == b"last"
    one.wait_for(lambda: one.server.connections == 0)


def test_a_drain_ends_at_its_limit(door):
    one = door(drain_seconds=0.2)
    client = one.client().send(held("always"))
    one.entered("always")
    with structlog.testing.capture_logs() as logs:
        one.run(one.server.drain())
    assert client.ended() == b""
    assert [line["action"] for line in logs] == ["drain_cut"]


@pytest.mark.parametrize("wanted", [True, False])
def test_requests_are_logged_only_when_asked_for(door, wanted):
    client = door(access_log=wanted).client()
    with structlog.testing.capture_logs() as logs:
        client.ask("GET", "/plain?x=1")
    lines = [(line["action"], line["method"], line["path"], line["status"]) for line in logs]
    assert lines == ([("access", "GET", "/plain", 200)] if wanted else [])
