"""Framing: what is one request, and what is refused. The corpus holds known ways to smuggle requests."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.domain.errors import RungError
from rung.protocols.exchange import Head
from rung.protocols.reader import HeadMemory, RequestReader
from rung.protocols.router import Router
from rung.settings import DoorSettings

HOST = b"Host: a\r\n"
POST = b"POST /x HTTP/1.1\r\n" + HOST


class Desk:
    """A reader and what it handed over."""

    def __init__(self, memory: HeadMemory | None = None, **limits: int) -> None:
        self.requests: list[tuple[str, str, bytes]] = []
        self.heads: list[Head] = []
        self.continues = 0
        self.memory = memory or HeadMemory(Router([]))
        self.reader = RequestReader(DoorSettings(**limits), self.memory, self._take, self._go_on)

    def _take(self, head: Head, body: bytes) -> bool:
        self.requests.append((head.method, head.path, body))
        self.heads.append(head)
        return head.keep_alive

    def _go_on(self) -> None:
        self.continues += 1

    def feed(self, *pieces: bytes) -> "Desk":
        for piece in pieces:
            self.reader.feed(piece)
        return self


def test_reads_requests_that_come_together():
    desk = Desk().feed(POST + b"Content-Length: 3\r\n\r\nabc" + b"GET /y HTTP/1.1\r\n" + HOST + b"\r\n")
    assert desk.requests == [("POST", "/x", b"abc"), ("GET", "/y", b"")]
    assert desk.reader.idle


def test_reads_chunked_bodies_and_ignores_trailers():
    body = b"3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nX-Trailer: 1\r\n\r\n"
    desk = Desk().feed(POST + b"Transfer-Encoding: chunked\r\n\r\n" + body)
    assert desk.requests == [("POST", "/x", b"abcde")]
    assert b"x-trailer" not in desk.heads[0].headers


def test_a_request_that_offers_an_upgrade_is_read_as_plain_http_and_ends_the_connection():
    head = (
        POST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\nContent-Length: 5\r\n\r\n"
    )
    desk = Desk().feed(head + b"he", b"llo")
    assert desk.requests == [("POST", "/x", b"hello")]
    assert not desk.heads[0].keep_alive


def test_says_continue_only_when_the_body_is_welcome():
    desk = Desk(max_body=10).feed(POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    assert desk.continues == 1
    with pytest.raises(RungError):
        Desk(max_body=2).feed(POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")


SMUGGLING = {
    "both lengths": POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both lengths, other order": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    "two equal lengths": POST + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
    "a list of lengths": POST + b"Content-Length: 4, 4\r\n\r\nabcd",
    "signed length": POST + b"Content-Length: +4\r\n\r\nabcd",
    "negative length": POST + b"Content-Length: -1\r\n\r\n",
    "hex length": POST + b"Content-Length: 0x4\r\n\r\nabcd",
    "empty length": POST + b"Content-Length: \r\n\r\n",
    "length with a space inside": POST + b"Content-Length: 1 0\r\n\r\nabcdefghij",
    "length with unicode digits": POST + "Content-Length: \u0664\r\n\r\nabcd".encode(),
    "length overflows": POST + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "unknown transfer coding": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked in two headers": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "identity": POST + b"Transfer-Encoding: identity\r\n\r\n",
    "coding hidden by a tab": POST + b"Transfer-Encoding:\tchunked, x\r\n\r\n0\r\n\r\n",
    "coding with a vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "quoted coding": POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "chunked in HTTP/1.0": b"POST /x HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "space before the colon": POST + b"Content-Length : 4\r\n\r\nabcd",
    "space before the coding's colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "folded header": POST + b"X: a\r\n b\r\nContent-Length: 4\r\n\r\nabcd",
    "folded coding": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "header without a colon": POST + b"Content-Length 4\r\n\r\nabcd",
    "bare line feeds": b"POST /x HTTP/1.1\nHost: a\nContent-Length: 4\n\nabcd",
    "one bare line feed": POST + b"Content-Length: 4\n\r\nabcd",
    "bare carriage return": POST + b"X: a\rContent-Length: 4\r\n\r\nabcd",
    "NUL in a value": POST + b"X: a\x00b\r\n\r\n",
    "NUL in a name": POST + b"Content\x00-Length: 4\r\n\r\nabcd",
    "chunk size with a sign": POST + b"Transfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n",
    "chunk size in 0x form": POST + b"Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
    "chunk size overflows": POST + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff3\r\nabc\r\n0\r\n\r\n",
    "chunk longer than it says": POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
    "chunk ended by a line feed": POST + b"Transfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n",
    "no host": b"POST /x HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    "two hosts": POST + HOST + b"\r\n",
    "HTTP/0.9": b"GET /x\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/1.9": b"GET /x HTTP/1.9\r\n" + HOST + b"\r\n",
    "unknown method": b"BREW /x HTTP/1.1\r\n" + HOST + b"\r\n",
    "space in the target": b"GET /x y HTTP/1.1\r\n" + HOST + b"\r\n",
    "request line split": b"GET /x\r\n HTTP/1.1\r\n" + HOST + b"\r\n",
    "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00",
    "upgrade with a chunked body": POST
    + b"Connection: upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("case", SMUGGLING)
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_refuses_what_two_readers_could_frame_differently(case, size):
    data = SMUGGLING[case]
    desk = Desk()
    with pytest.raises(RungError):
        desk.feed(*(data[at : at + size] for at in range(0, len(data), size)))
        desk.feed(b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n")
        desk.feed(b"\r\n\r\n")
    assert ("GET", "/smuggled", b"") not in desk.requests


@pytest.mark.parametrize("case", SMUGGLING)
def test_refuses_them_also_behind_a_remembered_head(case):
    good = POST + b"Content-Length: 2\r\n\r\nok"
    desk = Desk().feed(good, good)
    with pytest.raises(RungError):
        desk.feed(good + SMUGGLING[case], b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n", b"\r\n\r\n")
    assert desk.requests[:3] == [("POST", "/x", b"ok")] * 3
    assert ("GET", "/smuggled", b"") not in desk.requests


LIMITS = {
    "a head of many bytes": (b"GET /x HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 3000 + b"\r\n\r\n", "HeadTooLarge"),
    "a target of many bytes": (b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", "HeadTooLarge"),
    "many headers": (b"GET /x HTTP/1.1\r\n" + HOST + b"X: 1\r\n" * 30 + b"\r\n", "HeadTooLarge"),
    "many trailers": (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: 1\r\n" * 30 + b"\r\n", "HeadTooLarge"),
    "an announced body": (POST + b"Content-Length: 5000\r\n\r\n", "TooLarge"),
    "a chunked body": (POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"3e8\r\n" + b"a" * 1000 + b"\r\n", "TooLarge"),
}


@pytest.mark.parametrize("case", LIMITS)
@pytest.mark.parametrize("size", [13, 100_000])
def test_keeps_its_limits(case, size):
    data, error = LIMITS[case]
    desk = Desk(max_head=2000, max_headers=20, max_body=900)
    with pytest.raises(RungError) as refused:
        desk.feed(*(data[at : at + size] for at in range(0, len(data), size)))
    assert type(refused.value).__name__ == error
    assert desk.requests == []


def test_a_head_that_never_ends_is_cut_at_the_limit():
    desk = Desk(max_head=2000).feed(b"GET /x HTTP/1.1\r\nX: ")
    with pytest.raises(RungError):
        for _ in range(100):
            desk.feed(b"a" * 100)


def test_a_large_body_does_not_count_as_head():
    data = POST + b"Content-Length: 50000\r\n\r\n" + b"a" * 50000
    desk = Desk(max_head=500)
    desk.feed(*(data[at : at + 1000] for at in range(0, len(data), 1000)))
    desk.feed(data + data)
    assert [len(body) for _, _, body in desk.requests] == [50000] * 3


def test_a_remembered_head_is_parsed_once():
    memory = HeadMemory(Router([]))
    data = POST + b"Content-Length: 1\r\n\r\n"
    first = Desk(memory).feed(data + b"1", data + b"2")
    second = Desk(memory).feed(data + b"3" + data + b"4")
    assert [body for _, _, body in first.requests + second.requests] == [b"1", b"2", b"3", b"4"]
    assert len({id(head) for head in first.heads + second.heads}) == 1


def test_a_head_is_not_confused_with_that_of_a_pipelined_neighbour():
    first = b"POST /first HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\n"
    second = b"POST /second HTTP/1.1\r\n" + HOST + b"Content-Length: 1000\r\n\r\n"
    desk = Desk().feed(first + b"abc" + second + b"partial", b"x" * 993)
    desk.feed(first + b"def")
    assert [(path, len(body)) for _, path, body in desk.requests] == [("/first", 3), ("/second", 1000), ("/first", 3)]


@st.composite
def message(draw):
    body = draw(st.binary(max_size=60))
    path = "/" + draw(st.sampled_from(["a", "b/c", "long" * 20]))
    extra = draw(st.sampled_from([b"", b"X-A: 1\r\n", b"Content-Type: application/json\r\n"]))
    head = b"POST " + path.encode() + b" HTTP/1.1\r\n" + HOST + extra
    if draw(st.booleans()):
        size = draw(st.integers(1, 20))
        chunks = b"".join(
            b"%x\r\n%b\r\n" % (len(body[at : at + size]), body[at : at + size]) for at in range(0, len(body), size)
        )
        return ("POST", path, body), head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    return ("POST", path, body), head + b"Content-Length: %d\r\n\r\n" % len(body) + body


@given(st.lists(message(), min_size=1, max_size=6), st.lists(st.integers(1, 200), max_size=20), st.booleans())
def test_where_the_network_cuts_makes_no_difference(messages, cuts, known):
    memory = HeadMemory(Router([]))
    if known:
        for _, data in messages:
            Desk(memory).feed(data)
    stream, pieces = b"".join(data for _, data in messages), []
    for cut in cuts:
        pieces.append(stream[:cut])
        stream = stream[cut:]
    desk = Desk(memory).feed(*[piece for piece in [*pieces, stream] if piece])
    assert desk.requests == [request for request, _ in messages]
    assert desk.reader.idle


def test_a_large_body_behind_a_known_head_comes_in_pieces_of_any_size():
    body = bytes(range(256)) * 200
    request = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    memory = HeadMemory(Router([]))
    Desk(memory).feed(request)
    stream, desk = request * 2 + b"GET /y HTTP/1.1\r\n" + HOST + b"\r\n", Desk(memory)
    for size in (5, 100, 9000, 1, 1, 5000, 30_000, 20_000, len(stream)):
        desk.feed(stream[:size])
        stream = stream[size:]
    assert desk.requests == [("POST", "/x", body), ("POST", "/x", body), ("GET", "/y", b"")]
    assert desk.reader.idle


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_no_bytes_bring_it_down(pieces):
    desk = Desk()
    with contextlib.suppress(RungError):
        desk.feed(*[piece for piece in pieces if piece])


@given(st.data())
def test_no_mutation_of_a_request_brings_it_down(data):
    raw = bytearray(
        POST + b"Content-Length: 3\r\n\r\nabc" + POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"
    )
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(RungError):
        Desk().feed(bytes(raw))
