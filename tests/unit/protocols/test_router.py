"""Where paths lead."""

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.domain.errors import NotFound, RungError
from rung.domain.predictions import Call
from rung.protocols.exchange import Head, Reply, Route
from rung.protocols.router import Router


def answering(name):
    async def endpoint(head: Head, body: bytes, call: Call) -> Reply:
        return Reply(200, name.encode())

    return endpoint


PATTERNS = [
    "GET /models",
    "GET /models/{model}",
    "GET /models/{model}/metadata",
    "POST /models/{model}:predict",
    "POST /models/{model}:explain",
    "POST /models/{model}/versions/{version}:predict",
    "POST /models/special:predict",
]
ROUTER = Router([Route(*pattern.split(), answering(pattern)) for pattern in PATTERNS])


def go(method: str, path: str) -> tuple[str, dict[str, str]]:
    head = Head(method, path, "", {})
    ROUTER.resolve(head, path)
    reply = asyncio.run(head.endpoint(head, b"", Call()))
    return bytes(reply.body).decode() if reply.status == 200 else str(reply.status), dict(head.params)


@pytest.mark.parametrize(
    ("method", "path", "pattern", "params"),
    [
        ("GET", "/models", "GET /models", {}),
        ("GET", "/models/m", "GET /models/{model}", {"model": "m"}),
        ("POST", "/models/m:predict", "POST /models/{model}:predict", {"model": "m"}),
        ("POST", "/models/m:PREDICT", "POST /models/{model}:predict", {"model": "m"}),
        ("POST", "/models/m%3Apredict", "POST /models/{model}:predict", {"model": "m"}),
        ("POST", "/models/m:explain", "POST /models/{model}:explain", {"model": "m"}),
        ("POST", "/models/a:b:predict", "POST /models/{model}:predict", {"model": "a:b"}),
        ("POST", "/models/special:predict", "POST /models/special:predict", {}),
        (
            "POST",
            "/models/m/versions/3:predict",
            "POST /models/{model}/versions/{version}:predict",
            {"model": "m", "version": "3"},
        ),
        # A colon that belongs to no verb is part of the name.
        ("GET", "/models/m:other", "GET /models/{model}", {"model": "m:other"}),
        ("GET", "/models/m:predict/metadata", "GET /models/{model}/metadata", {"model": "m:predict"}),
    ],
)
def test_it_leads_there(method, path, pattern, params):
    assert go(method, path) == (pattern, params)


def test_a_verb_alone_is_not_a_name():
    """Nothing stands before the colon, so the segment is a name of its own, and names take no POST."""
    assert go("POST", "/models/:predict")[0] == "405"


def test_the_wrong_method_is_said():
    assert go("GET", "/models/m:predict")[0] == "405"
    assert go("POST", "/models/m")[0] == "405"


def test_what_leads_nowhere():
    for path in ("/", "/model", "/models/m/versions/3", "/models/m/versions/3:classify"):
        with pytest.raises(NotFound):
            go("POST", path)


def test_no_verb_is_routed_twice():
    with pytest.raises(ValueError, match="twice"):
        Router([Route("POST", "/{a}:Run", answering("a")), Route("POST", "/{b}:run", answering("b"))])


@given(st.text(alphabet="{}:\0/%am", max_size=12))
def test_no_path_breaks_it(path):
    with suppress(RungError):
        go("POST", "/models/" + path)


def test_a_refusal_that_is_given_again_and_again_does_not_grow():
    head = Head("GET", "/nowhere", "", {})
    Router([]).resolve(head, "/nowhere")
    depths = []
    for _ in range(3):
        try:
            head.endpoint(head, b"", Call()).send(None)
        except NotFound as error:
            place, depth = error.__traceback__, 0
            while place is not None:
                place, depth = place.tb_next, depth + 1
            depths.append(depth)
    assert depths == [2, 2, 2]
