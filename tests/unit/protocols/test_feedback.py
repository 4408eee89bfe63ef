import base64
from time import time

import orjson
import pytest

from rung.domain.errors import InvalidInput, NotFound, NotReady, TooLarge, UnsupportedMedia
from rung.domain.identity import Keyring
from rung.domain.predictions import Call
from rung.protocols.exchange import Head
from rung.protocols.feedback import Feedback
from rung.protocols.status import status_of

KEYRING = Keyring(bytes(32))
PNG = b"\x89PNG\r\n\x1a\nrest"


class Sink:
    """A `FeedbackSink` that remembers."""

    def __init__(self):
        self.records = []
        self.error = None

    def verify(self, prediction, model=""):
        return KEYRING.verify(prediction, ["m", model])

    async def commit(self, records):
        if self.error is not None:
            raise self.error
        self.records += records


@pytest.fixture
def sink():
    return Sink()


async def post(sink, body, media=b"application/json", query="", **options):
    head = Head("POST", "/feedback", query, {b"content-type": media} if media else {})
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    reply = await Feedback(sink, **options).take(head, data, Call())
    return reply.status, orjson.loads(reply.body)["events"]


def minted(model="m"):
    return KEYRING.mint(model, 2, "canary", 5)(time())


@pytest.mark.asyncio
async def test_one_event(sink):
    prediction = minted()
    status, events = await post(sink, {"id": prediction, "label": "cat"})
    (record,) = sink.records
    assert (status, events) == (200, [record.event])
    assert (record.id, record.model, record.version, record.arm) == (prediction, "m", 2, "canary")


@pytest.mark.asyncio
async def test_a_list_keeps_its_order_and_names_of_events(sink):
    _, events = await post(sink, [{"id": minted(), "score": n, "event": f"e{n}"} for n in range(3)])
    assert events == ["e0", "e1", "e2"]
    assert [record.value for record in sink.records] == [0, 1, 2]


@pytest.mark.asyncio
async def test_the_same_twice_has_one_event_id(sink):
    event = {"id": minted(), "label": 1}
    assert await post(sink, event) == await post(sink, event, media=b"")


@pytest.mark.asyncio
async def test_a_mask_as_a_png(sink):
    query = f"id={minted()}&source=doctor&time=1700000000"
    await post(sink, PNG, b"image/png", query)
    (record,) = sink.records
    assert (record.kind, record.source, record.time) == ("mask", "doctor", 1.7e9)
    assert base64.b64decode(record.value["data"]) == PNG


@pytest.mark.asyncio
async def test_a_mask_in_json(sink):
    await post(sink, {"id": minted(), "mask": base64.b64encode(PNG).decode()})
    assert sink.records[0].value["media"] == "image/png"


@pytest.mark.asyncio
async def test_a_model_that_is_not_known_here_may_be_named(sink):
    prediction = minted("elsewhere")
    with pytest.raises(NotFound):
        await post(sink, {"id": prediction, "label": 1})
    await post(sink, {"id": prediction, "label": 1, "model": "elsewhere"})
    assert sink.records[0].model == "elsewhere"


@pytest.mark.parametrize("forged", ["", "nonsense", "A" * 48, None])
@pytest.mark.asyncio
async def test_unknown_and_forged_ids_are_not_found(sink, forged):
    prediction = minted()
    forged = prediction[:-1] + ("A" if prediction[-1] != "A" else "B") if forged is None else forged
    with pytest.raises(NotFound) as caught:
        await post(sink, {"id": forged, "label": 1})
    assert status_of(caught.value) == 404
    assert sink.records == []


@pytest.mark.asyncio
async def test_a_list_is_taken_whole_or_not_at_all_and_says_where_it_is_wrong(sink):
    with pytest.raises(NotFound, match=r"event 1: .*nothing of the list was taken"):
        await post(sink, [{"id": minted(), "label": 1}, {"id": "x", "label": 1}])
    with pytest.raises(InvalidInput, match="event 0"):
        await post(sink, [{"id": minted()}, {"id": minted(), "label": 1}])
    assert sink.records == []


@pytest.mark.parametrize(
    ("body", "media", "query", "error"),
    [
        (b"{", b"application/json", "", InvalidInput),
        (b"[]", b"application/json", "", InvalidInput),
        (b"7", b"application/json", "", InvalidInput),
        (b'{"label": 1}', b"application/json", "", InvalidInput),
        (b'{"id": 7, "label": 1}', b"application/json", "", InvalidInput),
        (b'{"id": "x", "model": 7}', b"application/json", "", InvalidInput),
        (b"a,b", b"text/csv", "", UnsupportedMedia),
        (PNG, b"image/png", "", InvalidInput),
    ],
)
@pytest.mark.asyncio
async def test_what_is_no_feedback_is_refused(sink, body, media, query, error):
    with pytest.raises(error):
        await post(sink, body, media, query)


@pytest.mark.asyncio
async def test_too_many_events(sink):
    with pytest.raises(TooLarge, match="limit of 2"):
        await post(sink, [{"id": minted(), "label": 1}] * 3, max_events=2)


@pytest.mark.asyncio
async def test_a_disk_that_refuses_is_told(sink):
    sink.error = NotReady("the disk")
    with pytest.raises(NotReady):
        await post(sink, {"id": minted(), "label": 1})
