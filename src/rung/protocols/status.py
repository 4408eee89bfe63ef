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
    Forbidden,
    InvalidInput,
    ModelError,
    NotAcceptable,
    NotFound,
    NotReady,
    OperatorError,
    Overloaded,
    RungError,
    StorageFull,
    TooLarge,
    Unauthenticated,
    Unsupported,
    UnsupportedMedia,
)
from rung.protocols.exchange import Reply

__all__ = [
    "ACCEPTED",
    "METHOD_NOT_ALLOWED",
    "OK",
    "STATUS_LINES",
    "UNAVAILABLE",
    "ExpectationFailed",
    "HeadTooLarge",
    "VersionNotSupported",
    "error_body",
    "error_reply",
    "status_of",
]

OK = 200
ACCEPTED = 202
METHOD_NOT_ALLOWED = 405
UNAVAILABLE = 503

STATUS_LINES: dict[int, bytes] = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
} | {499: b"HTTP/1.1 499 Client Closed Request\r\n"}
"""Status -> the first line of a response."""


class ExpectationFailed(InvalidInput):
    """The only expectation that is met here is 100-continue."""


class HeadTooLarge(InvalidInput):
    """The request line and headers are larger than this server accepts."""


class VersionNotSupported(InvalidInput):
    """Only HTTP/1.1 and HTTP/1.0 are spoken here."""


_STATUSES: dict[type, int] = {
    ExpectationFailed: 417,
    HeadTooLarge: 431,
    VersionNotSupported: 505,
    InvalidInput: 400,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    NotAcceptable: 406,
    Conflict: 409,
    TooLarge: 413,
    UnsupportedMedia: 415,
    Overloaded: 429,
    Cancelled: 499,
    Unsupported: 501,
    NotReady: UNAVAILABLE,
    DeadlineExceeded: 504,
    StorageFull: 507,
    ClientError: 400,
    # A worker that died counts as a failure of the model: 503 would make a balancer try the input
    # that killed it on every other replica.
    ModelError: 500,
    OperatorError: 500,
    RungError: 500,
}
_LONGEST_RETRY = 3600
_PLAIN = "the server failed on this request; its log says why"


def status_of(error: BaseException) -> int:
    """The status of the error's nearest class in the table; 500 for what rung did not raise on purpose."""
    for cls in type(error).__mro__:
        if cls in _STATUSES:
            return _STATUSES[cls]
    return 500


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
    elif isinstance(error, Unauthenticated):
        headers = ((b"www-authenticate", b"Bearer"),)
    return Reply(status_of(error), error_body(message), headers=headers)


def _whole_seconds(seconds: float) -> int:
    if not seconds <= _LONGEST_RETRY:
        return _LONGEST_RETRY
    return max(1, math.ceil(seconds))
