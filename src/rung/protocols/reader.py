"""From bytes to requests: framing, limits, and the memory of heads. Knows no socket.

Heads are remembered. A keep-alive client sends the same bytes up to the blank line with every
request; the parse of those bytes is a pure function of them, so the second time it is one
dictionary look-up. Whatever is not remembered, chunked or in pieces goes through llhttp.

Every rule errs on the side of refusing: two parties that disagree on where a message ends are how
requests are smuggled.
"""

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import httptools

from rung.domain.errors import InvalidInput, RungError, TooLarge, UnsupportedMedia
from rung.protocols import status
from rung.protocols.exchange import Head
from rung.protocols.router import Router
from rung.settings import DoorSettings

__all__ = ["HeadMemory", "RequestReader"]

_HEADS = 4096
"""Heads remembered at once."""
_MEMORABLE = 4096
"""Heads longer than this many bytes are not remembered."""
_READ_ANYWAY = 64 << 10
"""Bytes of a body that are read although its head is refused already: cheaper for both than a new connection."""
_PIECE = 4096
"""Bytes from which a piece of a body is kept as it came."""
_ONCE = frozenset({b"host", b"content-length", b"transfer-encoding", b"content-type", b"content-encoding"})
"""Headers whose repetition two readers may understand differently."""


class HeadMemory:
    """Heads by their bytes, shared by all connections of a door."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self.known: dict[bytes, Head] = {}

    def remember(self, raw: bytes, head: Head) -> None:
        """Keep the parse of a head. A full memory is emptied: it refills with what is in use."""
        if len(self.known) >= _HEADS:
            self.known.clear()
        self.known[raw] = head


class RequestReader:
    """Reads the requests of one connection and hands each to `on_request(head, body)`.

    `on_request` returns whether more may be read. `on_continue` is called when the peer waits for
    a word before it sends the body.
    """

    __slots__ = (
        "_body",
        "_body_size",
        "_candidate",
        "_count",
        "_first",
        "_head_size",
        "_headers",
        "_known",
        "_memory",
        "_on_continue",
        "_on_request",
        "_owed",
        "_parser",
        "_settings",
        "_url",
        "_waiting",
        "head",
        "idle",
        "stopped",
    )

    def __init__(
        self,
        settings: DoorSettings,
        memory: HeadMemory,
        on_request: Callable[[Head, bytes], bool],
        on_continue: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._memory = memory
        self._known = memory.known
        self._on_request = on_request
        self._on_continue = on_continue
        self._parser: Any = httptools.HttpRequestParser(self)
        self.idle = True
        """At a message boundary, with nothing of the next message seen."""
        self.stopped = False
        """The connection carries no further request."""
        self.head: Head | None = None
        """Of the message being read, once its blank line has come."""
        self._candidate: bytes | None = None
        self._first: Head | None = None
        self._owed = 0
        """Bytes of a body that are still to come and that the parser does not see."""
        self._body: list[bytes | bytearray | memoryview] = []
        self._waiting = 0
        """Bytes since the last that brought the message forward."""
        self.on_message_begin()
        self.idle = True

    def feed(self, data: bytes) -> None:
        """Take in bytes.

        Raises:
            RungError: this cannot be read on; answer it and close.
        """
        if self.idle or self._owed:
            data = self._take_known(data)
            if not data or self.stopped:
                return
            self._expect(data)
        else:
            self._waiting += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # Answered as plain HTTP/1.1, which the protocol allows; the connection closes after it.
            self._collect(data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if isinstance(cause, RungError):
                raise cause from None
            raise
        except httptools.HttpParserError as error:
            raise InvalidInput(f"this is not valid HTTP/1.1: {error}") from None
        if self._waiting > self._settings.max_head and not self.idle:
            # The parser keeps an unfinished header or trailer line to itself and skips extensions of chunks.
            raise status.HeadTooLarge
        self._remember()

    def _take_known(self, data: bytes) -> bytes:
        """Take what belongs to the body at hand and to requests whose heads are known; return the rest."""
        known, start, size = self._known, self._collect(data) if self._owed else 0, len(data)
        while start < size and not self.stopped:
            end = data.find(b"\r\n\r\n", start) + 4
            if end == 3:
                break
            head = known.get(data[start:end])
            if head is None:
                break
            stop = end + head.length
            if stop > size:
                self.idle, self.head, self._owed, self._body = False, head, head.length, []
                self._collect(memoryview(data)[end:])
                return b""
            start = stop
            if not self._on_request(head, data[end:stop]):
                self.stopped = True
        return data[start:] if start else data

    def _expect(self, data: bytes) -> None:
        """These bytes begin a message that has to be parsed."""
        self.idle = False
        self._first = self.head = None
        self._waiting = 0
        end = data.find(b"\r\n\r\n") + 4
        if 4 <= end <= _MEMORABLE and data[:1].isalpha():
            candidate = data[:end]
            # Only if every line ends in CRLF: any other ending could move the blank line.
            if candidate.count(b"\n") == candidate.count(b"\r\n") == candidate.count(b"\r"):
                self._candidate = candidate

    def _remember(self) -> None:
        """Keep the head that began at the last boundary, once the parser has accepted it."""
        candidate, self._candidate = self._candidate, None
        head = self._first
        if candidate is None or head is None or head.length < 0 or not head.keep_alive:
            return
        if b"expect" not in head.headers:
            self._memory.remember(candidate, head)

    # --- httptools callbacks ----------------------------------------------------------------

    def on_message_begin(self) -> None:
        """The first byte of a message."""
        self.idle = False
        self.head = None
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._count = 0
        self._head_size = 0
        self._waiting = 0
        self._body = []
        self._body_size = 0

    def on_url(self, url: bytes) -> None:
        """A piece of the request target."""
        self._url += url
        self._weigh(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header line, or one trailer line after a chunked body."""
        self._count += 1
        if self._count > self._settings.max_headers:
            raise status.HeadTooLarge
        self._weigh(len(name) + len(value) + 4)
        if self.head is not None:
            return  # trailers mean nothing here, and must not change what was decided
        name = name.lower()
        have = self._headers.get(name)
        if have is not None and name in _ONCE:
            raise InvalidInput(f"the header {name.decode('latin-1')} is given twice")
        self._headers[name] = value if have is None else have + b", " + value

    def on_headers_complete(self) -> None:
        """Everything before the body is there: refuse here what must be refused unread."""
        head = self.head = self._read_head()
        self._waiting = 0
        if self._first is None:
            self._first = head
        if head.length > self._settings.max_body:
            raise TooLarge(f"the body of {head.length} bytes is over the limit of {self._settings.max_body}")
        if head.refused is not None and not 0 <= head.length <= _READ_ANYWAY:
            raise head.refused
        expect = head.headers.get(b"expect")
        if expect is not None:
            if expect.lower() != b"100-continue":
                raise status.ExpectationFailed
            self._on_continue()

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        self._waiting = 0
        self._body_size += len(data)
        if self._body_size > self._settings.max_body:
            raise TooLarge(f"the body is over the limit of {self._settings.max_body} bytes")
        self._add(data)

    def on_message_complete(self) -> None:
        """The request is whole, unless it asked for an upgrade: then the parser leaves its body to us."""
        head = self.head
        if head is None or self.stopped:
            return
        if self._parser.should_upgrade() and head.length:
            self._owed = head.length
        else:
            self._complete(head)

    # --- between the two --------------------------------------------------------------------

    def _weigh(self, size: int) -> None:
        self._head_size += size
        if self._head_size > self._settings.max_head:
            raise status.HeadTooLarge

    def _read_head(self) -> Head:
        version = self._parser.get_http_version()
        headers = self._headers
        if version not in ("1.1", "1.0"):
            raise status.VersionNotSupported
        if version == "1.1" and b"host" not in headers:
            raise InvalidInput("an HTTP/1.1 request needs a Host header")
        coding = headers.get(b"transfer-encoding")
        if coding is not None and (version == "1.0" or b"content-length" in headers):
            raise InvalidInput("Transfer-Encoding may stand neither in HTTP/1.0 nor beside Content-Length")
        if coding is not None and coding.lower() != b"chunked":
            raise UnsupportedMedia("of the transfer codings only chunked is read here")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            raise InvalidInput("Content-Length is not a number")
        try:
            url = httptools.parse_url(self._url)
        except httptools.HttpParserInvalidURLError:
            raise InvalidInput("the request target is not a valid URL") from None
        raw_path = (url.path or b"/").decode("latin-1")
        head = Head(
            self._parser.get_method().decode("latin-1"),
            unquote(raw_path, errors="replace"),
            (url.query or b"").decode("latin-1"),
            headers,
            keep_alive=self._parser.should_keep_alive() and not self._parser.should_upgrade(),
            length=-1 if coding is not None else int(length),
        )
        self._memory.router.resolve(head, raw_path)
        return head

    def _collect(self, data: bytes | memoryview) -> int:
        """Take in the body of a known head, or of a request that asked for an upgrade; how many bytes belong to it."""
        if self._owed < 0:
            raise InvalidInput("a chunked body and an upgrade do not go together here")
        piece = data[: self._owed]
        if piece and self.head is not None:
            self._add(piece)
            self._owed -= len(piece)
            if not self._owed:
                self._complete(self.head)
        return len(piece)

    def _add(self, data: bytes | memoryview) -> None:
        """Keep a piece of the body: small ones in one buffer, since a list of them takes many times their size."""
        if len(data) >= _PIECE:
            self._body.append(data)
        elif self._body and isinstance(self._body[-1], bytearray):
            self._body[-1] += data
        else:
            self._body.append(bytearray(data))

    def _complete(self, head: Head) -> None:
        body, self._body = b"".join(self._body), []
        self.idle = True
        if not self._on_request(head, body):
            self.stopped = True
