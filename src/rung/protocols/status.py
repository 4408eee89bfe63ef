"""HTTP status numbers: which error gets which, and the names of those that the door needs itself.

No other module of rung knows these numbers.
"""

import math
from http import HTTPStatus

import orjson

from rung.domain.errors import (
    Cancelled,
    ClientError,
    Conflict,
    DeadlineExceeded,
    InvalidInput,
    ModelError,
    NotAcceptable,
    NotFound,
    NotReady,
    OperatorError,
    Overloaded,
    RungError,
    TooLarge,
    Unsupported,
    UnsupportedMedia,
)
from rung.protocols.exchange import Reply

__all__ = [
    "ACCEPTED",
    "BAD_REQUEST",
    "CLIENT_CLOSED",
    "CONTINUE",
    "CREATED",
    "EXPECTATION_FAILED",
    "HEAD_TOO_LARGE",
    "INTERNAL",
    "LENGTH_REQUIRED",
    "METHOD_NOT_ALLOWED",
    "NOT_FOUND",
    "NOT_IMPLEMENTED",
    "NO_CONTENT",
    "OK",
    "REQUEST_TIMEOUT",
    "STATUS_LINES",
    "TOO_LARGE",
    "UNAVAILABLE",
    "URI_TOO_LONG",
    "VERSION_NOT_SUPPORTED",
    "ExpectationFailed",
    "HeadTooLarge",
    "RequestTimeout",
    "VersionNotSupported",
    "error_body",
    "error_reply",
    "head_too_large",
    "status_of",
]

CONTINUE = 100
OK = 200
CREATED = 201
ACCEPTED = 202
NO_CONTENT = 204
BAD_REQUEST = 400
NOT_FOUND = 404
METHOD_NOT_ALLOWED = 405
REQUEST_TIMEOUT = 408
LENGTH_REQUIRED = 411
TOO_LARGE = 413
URI_TOO_LONG = 414
EXPECTATION_FAILED = 417
HEAD_TOO_LARGE = 431
CLIENT_CLOSED = 499
INTERNAL = 500
NOT_IMPLEMENTED = 501
UNAVAILABLE = 503
VERSION_NOT_SUPPORTED = 505

STATUS_LINES: dict[int, bytes] = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
} | {CLIENT_CLOSED: b"HTTP/1.1 499 Client Closed Request\r\n"}
"""Status -> the first line of a response."""


class ExpectationFailed(InvalidInput):
    """The only expectation that is met here is 100-continue."""


class HeadTooLarge(InvalidInput):
    """The request line and headers are larger than this server accepts."""


class RequestTimeout(InvalidInput):
    """The request did not arrive in time."""


class VersionNotSupported(InvalidInput):
    """Only HTTP/1.1 and HTTP/1.0 are spoken here."""


_STATUSES: dict[type, int] = {
    ExpectationFailed: EXPECTATION_FAILED,
    HeadTooLarge: HEAD_TOO_LARGE,
    RequestTimeout: REQUEST_TIMEOUT,
    VersionNotSupported: VERSION_NOT_SUPPORTED,
    InvalidInput: BAD_REQUEST,
    NotFound: NOT_FOUND,
    NotAcceptable: 406,
    Conflict: 409,
    TooLarge: TOO_LARGE,
    UnsupportedMedia: 415,
    Overloaded: 429,
    Cancelled: CLIENT_CLOSED,
    Unsupported: NOT_IMPLEMENTED,
    NotReady: UNAVAILABLE,
    DeadlineExceeded: 504,
    ClientError: BAD_REQUEST,
    # A worker that died counts as a failure of the model: 503 would make a balancer try the input
    # that killed it on every other replica.
    ModelError: INTERNAL,
    OperatorError: INTERNAL,
    RungError: INTERNAL,
}
_LONGEST_RETRY = 3600
_PLAIN = "the server failed on this request; its log says why"


def status_of(error: BaseException) -> int:
    """The status of the error's nearest class in the table; 500 for what rung did not raise on purpose."""
    for cls in type(error).__mro__:
        if cls in _STATUSES:
            return _STATUSES[cls]
    return INTERNAL


def error_body(message: str) -> bytes:
    """`{"error": message}` in JSON; what is no valid Unicode is shown escaped."""
    return orjson.dumps({"error": message.encode(errors="backslashreplace").decode()})


def error_reply(error: BaseException) -> Reply:
    """The reply for an error in the shape that most protocols share: `{"error": message}`.

    The message of an error that rung did not raise on purpose stays inside: it is for the log.
    """
    message = str(error) if isinstance(error, RungError) else _PLAIN
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if isinstance(error, Overloaded):
        headers = ((b"retry-after", b"%d" % _whole_seconds(error.retry_after)),)
    elif isinstance(error, NotReady):
        headers = ((b"retry-after", b"1"),)
    return Reply(status_of(error), error_body(message), headers=headers)


def head_too_large() -> Reply:
    """The reply to a request line or headers over their limit."""
    return error_reply(HeadTooLarge())


def _whole_seconds(seconds: float) -> int:
    if not seconds <= _LONGEST_RETRY:
        return _LONGEST_RETRY
    return max(1, math.ceil(seconds))
