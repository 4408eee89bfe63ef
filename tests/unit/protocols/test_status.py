import orjson
import pytest

from rung.domain import errors
from rung.protocols import status
from rung.protocols.status import STATUS_LINES, error_reply, status_of

EXPECTED = [
    (errors.InvalidInput("x", field="a"), 400),
    (errors.Unauthenticated("x"), 401),
    (errors.Forbidden("x"), 403),
    (errors.NotFound("x"), 404),
    (errors.NotAcceptable("x"), 406),
    (errors.Conflict("x"), 409),
    (errors.TooLarge("x"), 413),
    (errors.UnsupportedMedia("x"), 415),
    (errors.Overloaded("x"), 429),
    (errors.Cancelled("x"), 499),
    (errors.ModelError("x"), 500),
    (errors.WorkerDied("x"), 500),
    (errors.BundleError("x"), 500),
    (errors.ConfigurationError("x"), 500),
    (errors.MissingDependency("x"), 500),
    (errors.InvalidData("x"), 500),
    (errors.TrainingFailed("x"), 500),
    (errors.TrainingKilled("x"), 500),
    (errors.Unsupported("x"), 501),
    (errors.NotReady("x"), 503),
    (errors.DeadlineExceeded("x"), 504),
    (errors.StorageFull("x"), 507),
    (status.HeadTooLarge(), 431),
    (status.ExpectationFailed(), 417),
    (status.VersionNotSupported(), 505),
]


@pytest.mark.parametrize(("error", "code"), EXPECTED, ids=lambda value: type(value).__name__)
def test_each_error_has_its_status_and_says_its_message(error: Exception, code: int) -> None:
    reply = error_reply(error)
    assert (reply.status, orjson.loads(reply.body)) == (code, {"error": str(error)})
    assert STATUS_LINES[code].startswith(b"HTTP/1.1 %d " % code)


def test_every_error_class_of_the_domain_is_listed_here() -> None:
    bases = {"RungError", "ClientError", "OperatorError"}
    assert {type(error).__name__ for error, _ in EXPECTED} >= set(errors.__all__) - bases


def test_an_accident_is_a_plain_500_without_its_details() -> None:
    reply = error_reply(KeyError("secret"))
    assert reply.status == 500
    assert b"secret" not in reply.body
    assert status_of(KeyError()) == 500


def test_a_subclass_made_elsewhere_takes_the_status_of_its_parent() -> None:
    class Special(errors.NotFound):
        """Special."""

    assert status_of(Special()) == 404


@pytest.mark.parametrize(
    ("seconds", "header"),
    [(0.0, b"1"), (-3, b"1"), (1.2, b"2"), (30, b"30"), (float("inf"), b"3600"), (float("nan"), b"3600")],
)
def test_overloaded_says_in_whole_seconds_when_to_come_back(seconds: float, header: bytes) -> None:
    assert error_reply(errors.Overloaded("x", retry_after=seconds)).headers == ((b"retry-after", header),)


def test_not_ready_says_to_come_back() -> None:
    assert error_reply(errors.NotReady()).headers == ((b"retry-after", b"1"),)


def test_a_message_that_is_not_valid_unicode_is_shown_escaped() -> None:
    assert orjson.loads(error_reply(errors.NotFound("no \ud800")).body) == {"error": "no \\ud800"}
