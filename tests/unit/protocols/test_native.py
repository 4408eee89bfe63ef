"""`/predict` takes what people have, gives what they ask for, and says what is wrong."""

import asyncio
import io
import re
from time import monotonic

import numpy as np
import orjson
import pytest
from PIL import Image

from rung.domain.errors import InvalidInput, NotAcceptable, NotFound, TooLarge, UnsupportedMedia
from rung.domain.models import Manifest, Step, Transforms, VersionState, VersionStatus
from rung.domain.predictions import Answer, Call, Request, Response
from rung.domain.tensors import DATATYPES, Signature, TensorSpec
from rung.protocols.exchange import Head
from rung.protocols.native import Native
from rung.transforms.pipeline import Pipeline

ARRIVED = monotonic()
CALL = Call(ARRIVED)
PLAIN = Transforms()


class Version:
    """A loaded version whose model is a function of one array."""

    platform = "test"

    def __init__(self, manifest, function):
        self.manifest = manifest
        self.function = function
        self.pipeline = Pipeline.build(manifest)
        self.requests = []

    async def predict(self, request):
        self.manifest.signature.check(request.inputs)
        self.requests.append(request)
        name = self.manifest.signature.outputs[0].name
        outputs = {name: self.function(*request.inputs.values())}
        return Response(self.manifest.name, self.manifest.version, outputs, 0.002, 0.003)

    async def respond(self, payload, accept):
        prepared = self.pipeline.prepare(payload)
        media = self.pipeline.negotiate(accept, prepared.rows)
        request = Request(prepared.inputs, prepared.rows, (), payload.deadline, payload.priority, payload.arrived)
        response = await self.predict(request)
        results = self.pipeline.finish(response.outputs, prepared)
        body = self.pipeline.render(results, media)
        kind = self.pipeline.content_type(results, media)
        return Answer(kind, body, response.model, response.version, 0.001, 0.003, 0.003, 0.001)


class Models:
    """The versions of this process."""

    def __init__(self, *versions):
        self.versions = {(version.manifest.name, version.manifest.version): version for version in versions}

    def find(self, name, version=None, call=None):
        numbers = [number for known, number in self.versions if known == name]
        if not numbers or version not in (None, *numbers):
            raise NotFound(f"there is no model {name!r} version {version}")
        return self.versions[name, version or max(numbers)]

    def statuses(self):
        return [VersionStatus(name, version, VersionState.AVAILABLE) for name, version in self.versions]


def manifest(name, inputs, outputs, transforms=PLAIN, version=1, **rest):
    def specs(text):
        words = [word.split(":") for word in text.split()]
        return tuple(TensorSpec(n, d, tuple(int(size) for size in s.split(",") if size)) for n, d, s in words)

    return Manifest(name, version, "onnx", Signature(specs(inputs), specs(outputs)), transforms=transforms, **rest)


def tiny(version=1):
    return Version(manifest("tiny", "x:FP32:-1,4", "y:FP32:-1,2", version=version), lambda x: x[:, :2] * version)


def nuclei():
    steps = Transforms(
        (
            Step("image.decode"),
            Step("image.resize", {"height": 32, "width": 32}),
            Step("image.normalize", {"mean": 0.5}),
            Step("image.layout"),
        ),
        (Step("segmentation.mask"),),
    )
    declared = manifest("nuclei", "image:FP32:-1,3,32,32", "logits:FP32:-1,1,32,32", steps, labels=("nucleus",))
    return Version(declared, lambda image: image[:, :1])


def head(path="/predict/tiny", query="", method="POST", **headers):
    wire = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    made = Head(method, path, query, wire)
    words = path.strip("/").split("/")
    made.params = {"model": words[1]} | ({"version": words[3]} if len(words) > 3 else {})
    return made


def ask(door, asked, body=b""):
    return asyncio.run(door.predict(asked, body, CALL))


def predictions(reply):
    assert reply.status == 200
    assert reply.media == b"application/json"
    return orjson.loads(reply.body)["predictions"]


def whole(reply):
    return reply.body if isinstance(reply.body, bytes) else b"".join(reply.body)


def png(height=40, width=60):
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def form(*files, name="file"):
    parts = [
        b'--B\r\nContent-Disposition: form-data; name="%b"; filename="x.png"\r\n\r\n%b\r\n' % (name.encode(), file)
        for file in files
    ]
    return b"".join(parts) + b"--B--\r\n"


X = np.arange(8, dtype=np.float32).reshape(2, 4)
OCTETS = {"content_type": "application/octet-stream"}
JSON = {"content_type": "application/json"}
door = Native(Models(tiny(1), tiny(2), nuclei()))


def test_raw_bytes_in_raw_bytes_out():
    asked = head(**OCTETS)
    for rows in (2, 1, 2):
        reply = ask(door, asked, X[:rows].tobytes())
        assert whole(reply) == (X[:rows, :2] * 2).tobytes()
        assert reply.media == f"application/octet-stream; datatype=FP32; shape={rows}x2".encode()
        assert dict(reply.headers) == {b"rung-model": b"tiny", b"rung-version": b"2"}


def test_large_raw_answers_are_not_copied():
    model = Version(manifest("big", "x:FP32:-1,64", "y:FP32:-1,64"), lambda x: x[:, ::-1])
    values = np.arange(64 * 1000, dtype=np.float32).reshape(1000, 64)
    reply = ask(Native(Models(model)), head("/predict/big", **OCTETS), values.tobytes())
    assert isinstance(reply.body, tuple)
    assert whole(reply) == values[:, ::-1].tobytes()


def test_raw_bytes_in_and_what_accept_says_out():
    assert predictions(ask(door, head(**OCTETS, accept="application/json"), X.tobytes())) == [[0, 2], [8, 10]]
    assert predictions(ask(door, head(**OCTETS, query="view=json"), X.tobytes())) == [[0, 2], [8, 10]]
    with pytest.raises(NotAcceptable, match="application/json, application/octet-stream"):
        ask(door, head(**OCTETS, accept="image/png"), X.tobytes())


def test_a_new_version_answers_the_next_request_of_the_same_head():
    models = Models(tiny(1))
    asked, changing = head(**OCTETS), Native(models)
    assert dict(ask(changing, asked, X.tobytes()).headers)[b"rung-version"] == b"1"
    models.versions["tiny", 7] = tiny(7)
    reply = ask(changing, asked, X.tobytes())
    assert dict(reply.headers)[b"rung-version"] == b"7"
    assert whole(reply) == (X[:, :2] * 7).tobytes()
    models.versions.clear()
    with pytest.raises(NotFound):
        ask(changing, asked, X.tobytes())


def test_a_request_that_waits_while_its_model_is_replaced_gets_its_own_answer():
    async def scenario():
        old, new = (
            tiny(1),
            Version(manifest("tiny", "x:FP64:-1,2", "z:INT64:-1,2", version=2), lambda x: x.astype("i8")),
        )
        gate = asyncio.Event()
        answer = old.predict

        async def later(request):
            await gate.wait()
            return await answer(request)

        old.predict = later
        models = Models(old)
        asked, changing = head(**OCTETS), Native(models)
        waiting = asyncio.ensure_future(changing.predict(asked, X.tobytes(), CALL))
        await asyncio.sleep(0)
        models.versions["tiny", 2] = new
        fresh = await changing.predict(asked, X.tobytes(), CALL)
        gate.set()
        return await waiting, fresh

    first, fresh = asyncio.run(scenario())
    assert first.media.endswith(b"datatype=FP32; shape=2x2")
    assert dict(first.headers)[b"rung-version"] == b"1"
    assert fresh.media.endswith(b"datatype=INT64; shape=2x2")
    assert dict(fresh.headers)[b"rung-version"] == b"2"


def test_a_version_in_the_path():
    reply = ask(door, head("/predict/tiny/versions/1", **OCTETS), X.tobytes())
    assert dict(reply.headers)[b"rung-version"] == b"1"
    with pytest.raises(NotFound):
        ask(door, head("/predict/tiny/versions/9", **OCTETS), X.tobytes())
    with pytest.raises(InvalidInput, match="'01' is not a version"):
        ask(door, head("/predict/tiny/versions/01", **OCTETS), X.tobytes())


@pytest.mark.parametrize(
    ("body", "reason"),
    [(b"", "empty"), (b"123", r"3 bytes: input 'x' is FP32 \[-1, 4\], which takes a multiple of 16")],
)
def test_raw_bytes_of_the_wrong_length(body, reason):
    with pytest.raises(InvalidInput, match=reason):
        ask(door, head(**OCTETS), body)


def test_a_shape_that_varies_in_two_sizes_is_stated():
    model = Version(manifest("free", "x:UINT8:-1,-1", "y:UINT8:-1,-1"), lambda x: x + 1)
    free = Native(Models(model))
    body = bytes(range(6))
    stated = head("/predict/free", content_type="application/octet-stream; shape=2x3")
    reply = ask(free, stated, body)
    assert whole(reply) == bytes(range(1, 7))
    assert reply.media.endswith(b"datatype=UINT8; shape=2x3")
    with pytest.raises(InvalidInput, match="shape=1x1"):
        ask(free, head("/predict/free", **OCTETS), body)
    for wrong in ("4x3", "6", "axb", "0x0", "-2x3", "2x3x1"):
        with pytest.raises(InvalidInput):
            ask(free, head("/predict/free", content_type=f"application/octet-stream; shape={wrong}"), body)


def test_bytes_that_are_no_booleans_are_refused():
    model = Version(manifest("flags", "x:BOOL:-1", "y:BOOL:-1"), lambda x: ~x)
    flags = Native(Models(model))
    assert whole(ask(flags, head("/predict/flags", **OCTETS, accept="application/octet-stream"), b"\0\1")) == b"\1\0"
    with pytest.raises(InvalidInput, match="0 or 1"):
        ask(flags, head("/predict/flags", **OCTETS), b"\0\2")


@pytest.mark.parametrize(
    "body",
    [[[0, 1, 2, 3]], {"rows": [[0, 1, 2, 3]]}, {"instances": [[0, 1, 2, 3]]}, {"inputs": {"x": [[0, 1, 2, 3]]}},
     [{"x": [0, 1, 2, 3]}]],
)  # fmt: skip
def test_json_rows(body):
    assert predictions(ask(door, head(**JSON), orjson.dumps(body))) == [[0, 2]]
    assert predictions(ask(door, head(), orjson.dumps(body))) == [[0, 2]]


def test_json_rows_in_and_raw_bytes_out():
    reply = ask(door, head(**JSON, accept="application/octet-stream"), b"[[0,1,2,3]]")
    assert np.frombuffer(whole(reply), "<f4").tolist() == [0, 2]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "no JSON"),
        (b"[" * 1000 + b"]" * 1000, "row 0"),
        (b"5", "must be"),
        (b"{}", "must be"),
        (b'{"rows": [], "instances": []}', "must be"),
        (b'{"data": []}', "no field 'data'"),
        (b'{"rows": 5}', "'rows' must hold a list of rows"),
        (b'{"inputs": "x"}', "'inputs' must hold"),
        (b'{"text": 5}', "'text' must hold"),
        (b"[]", "no rows|shape"),
        (b"[[1,2,3]]", "row 0: a list of 3 where 4 belong"),
        (b"[[1,2,3,NaN]]", "no JSON"),
        (b"[[1,2,3,1e400]]", "no JSON"),
        (b'\xff["x"]', "no JSON"),
    ],
)
def test_json_that_does_not_fit(body, reason):
    with pytest.raises(InvalidInput, match=reason):
        ask(door, head(**JSON), body)


def test_an_image_becomes_a_mask_an_overlay_json_or_bytes():
    for way in ({"accept": "image/png"}, {"query": "view=mask"}):
        reply = ask(door, head("/predict/nuclei", content_type="image/png", **way), png())
        mask = np.asarray(Image.open(io.BytesIO(reply.body)))
        assert reply.media == b"image/png"
        assert mask.shape == (40, 60)
        assert set(np.unique(mask)) == {0, 255}
    overlay = ask(door, head("/predict/nuclei", "view=overlay", content_type="image/png"), png())
    assert overlay.media == b"image/png"
    assert np.asarray(Image.open(io.BytesIO(overlay.body))).shape == (40, 60, 3)
    raw = ask(door, head("/predict/nuclei", "view=raw", content_type="image/png"), png())
    assert raw.media == b"application/octet-stream; datatype=UINT8; shape=40x60"
    np.testing.assert_array_equal(np.frombuffer(raw.body, np.uint8).reshape(40, 60) * 255, mask)
    (answer,) = predictions(ask(door, head("/predict/nuclei", content_type="image/png", accept="*/*"), png()))
    assert answer["fraction"] == pytest.approx(mask.mean() / 255)


def test_an_image_without_a_content_type_is_known_by_its_first_bytes():
    assert predictions(ask(door, head("/predict/nuclei"), png()))[0]["size"] == [40, 60]
    assert predictions(ask(door, head("/predict/nuclei", **OCTETS), png()))[0]["size"] == [40, 60]


def test_forms_with_one_and_with_several_files():
    asked = head("/predict/nuclei", "view=mask", content_type="multipart/form-data; boundary=B")
    assert Image.open(io.BytesIO(ask(door, asked, form(png())).body)).size == (60, 40)
    with pytest.raises(NotAcceptable, match="several"):
        ask(door, asked, form(png(), png()))
    asked = head("/predict/nuclei", content_type="multipart/form-data; boundary=B")
    answers = predictions(ask(door, asked, form(png(), png(20, 20))))
    assert [answer["size"] for answer in answers] == [[40, 60], [20, 20]]


def test_forms_that_are_none():
    asked = head("/predict/nuclei", content_type="multipart/form-data; boundary=B")
    with pytest.raises(InvalidInput, match="boundary"):
        ask(door, head("/predict/nuclei", content_type="multipart/form-data"), form(png()))
    with pytest.raises(InvalidInput, match="no files"):
        ask(door, asked, b"--B--\r\n")
    with pytest.raises(InvalidInput, match="'note' is no file"):
        ask(door, asked, b"--B\r\nContent-Disposition: form-data; name=note\r\n\r\nhi\r\n--B--")
    with pytest.raises(TooLarge):
        ask(Native(Models(nuclei()), max_parts=2), asked, form(png(), png(), png()))


def test_text_goes_to_a_model_of_text():
    model = Version(
        manifest("length", "t:BYTES:-1,1", "n:INT64:-1"),
        lambda t: np.array([len(text) for text in t[:, 0]], np.int64),
    )
    text = Native(Models(model))
    assert predictions(ask(text, head("/predict/length", content_type="text/plain"), "süß".encode())) == [5]
    assert predictions(ask(text, head("/predict/length", **JSON), b'{"text": ["a", "bc"]}')) == [1, 2]
    assert predictions(ask(text, head("/predict/length", **JSON), b'["a", "bc"]')) == [1, 2]
    with pytest.raises(InvalidInput, match="UTF-8"):
        ask(text, head("/predict/length", content_type="text/plain"), b"\xff")
    with pytest.raises(UnsupportedMedia, match="latin-1"):
        ask(text, head("/predict/length", content_type="text/plain; charset=latin-1"), b"a")
    with pytest.raises(UnsupportedMedia, match="takes rows or tensors, not text"):
        ask(door, head(content_type="text/plain"), b"a")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("application/xml", "'application/xml' is not read here: send image/png, image/jpeg"),
        ("application/x-www-form-urlencoded", "add -H 'Content-Type: image/png'"),
        ("", "no Content-Type"),
        ("image/png", "takes rows or tensors, not image"),
    ],
)
def test_other_media(kind, reason):
    with pytest.raises(UnsupportedMedia, match=re.escape(reason)):
        ask(door, head(content_type=kind), b"hello")


def test_deadline_and_priority_reach_the_model():
    model = tiny()
    timed = Native(Models(model))
    for kind, body in (("application/octet-stream", X.tobytes()), ("application/json", b"[[1,2,3,4]]")):
        ask(timed, head(content_type=kind, rung_timeout_ms="250.5", rung_priority="2"), body)
        assert model.requests[-1].deadline == pytest.approx(ARRIVED + 0.2505)
        assert model.requests[-1].priority == 2
        assert model.requests[-1].arrived == ARRIVED
    ask(timed, head(**OCTETS), X.tobytes())
    assert model.requests[-1].deadline == float("inf")
    for wrong in ("0", "-1", "soon", "nan", "inf", ""):
        with pytest.raises(InvalidInput, match="rung-timeout-ms"):
            ask(timed, head(**OCTETS, rung_timeout_ms=wrong), X.tobytes())
    for wrong in ("-1", "high", "1.5", "1000", ""):
        with pytest.raises(InvalidInput, match="rung-priority"):
            ask(timed, head(**OCTETS, rung_priority=wrong), X.tobytes())


def test_an_unknown_view_is_named():
    with pytest.raises(InvalidInput, match="'heatmap': use json, mask, overlay, raw"):
        ask(door, head("/predict/nuclei", "view=heatmap", content_type="image/png"), png())


@pytest.mark.parametrize("kind", ["application/octet-stream", "application/json"])
def test_the_timeline_adds_up(kind):
    body = X.tobytes() if kind == "application/octet-stream" else b"[[1,2,3,4]]"
    reply = ask(door, head(content_type=kind, rung_timing="1"), body)
    timing = dict(reply.headers)[b"server-timing"].decode()
    parts = {name: float(ms) for name, ms in re.findall(r"(\w+);dur=([0-9.]+)", timing)}
    assert list(parts) == ["parse", "prepare", "queue", "compute", "finish", "encode", "total"]
    assert parts["compute"] == 3
    assert sum(parts.values()) - parts["total"] == pytest.approx(parts["total"], abs=0.005)
    assert b"server-timing" not in dict(ask(door, head(content_type=kind), body).headers)


def described(path):
    reply = asyncio.run(door.describe(head(path, method="GET", host="example.org:8000"), b"", CALL))
    return orjson.loads(reply.body)


def test_a_model_describes_itself():
    answer = described("/predict/nuclei")
    assert answer["takes"] == ["image/png", "image/jpeg", "multipart/form-data", "application/octet-stream"]
    assert answer["views"] == ["json", "mask", "overlay", "raw"]
    assert answer["labels"] == ["nucleus"]
    assert answer["curl"].endswith("-o overlay.png 'http://example.org:8000/predict/nuclei?view=overlay'")
    with pytest.raises(NotFound):
        described("/predict/nobody")


def test_the_curl_example_is_an_answerable_request():
    answer = described("/predict/tiny/versions/1")
    assert answer["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    body = re.search(r"-d '(.*?)'", answer["curl"])[1]
    assert predictions(ask(door, head(**JSON), body.encode())) == [[0, 0]]


@pytest.mark.parametrize("spec", ["x:FP32:-1,3,64,64", "x:INT8:-1,-1,500"])
def test_the_curl_example_of_a_large_input_sends_raw_zeros(spec):
    model = Version(manifest("wide", spec, "y:FP32:-1,1"), lambda x: np.ones((len(x), 1), np.float32))
    wide = Native(Models(model))
    line = orjson.loads(asyncio.run(wide.describe(head("/predict/wide"), b"", CALL)).body)["curl"]
    count, kind = re.search(r"head -c (\d+).*Content-Type: ([^']+)'", line).groups()
    assert whole(ask(wide, head("/predict/wide", content_type=kind), bytes(int(count)))) == np.ones(1, "<f4").tobytes()


def test_a_host_that_could_hurt_a_shell_is_left_out():
    asked = head("/predict/tiny", method="GET", host="a';rm -rf /;'")
    assert (
        "'http://localhost:8000/predict/tiny'"
        in orjson.loads(asyncio.run(door.describe(asked, b"", CALL)).body)["curl"]
    )


def test_the_index_names_models_and_doors():
    answer = orjson.loads(asyncio.run(door.index(head(method="GET"), b"", CALL)).body)
    assert {"name": "nuclei", "version": 1, "state": "AVAILABLE"} in answer["models"]
    assert answer["doors"]["predict"] == "/predict/{model}"


def test_the_routes():
    assert {(route.method, route.pattern) for route in door.routes()} == {
        ("POST", "/predict/{model}"),
        ("POST", "/predict/{model}/versions/{version}"),
        ("GET", "/predict/{model}"),
        ("GET", "/predict/{model}/versions/{version}"),
        ("GET", "/"),
    }


@pytest.mark.parametrize("datatype", sorted(set(DATATYPES) - {"BYTES"}))
def test_every_datatype_survives_the_raw_road(datatype):
    model = Version(manifest("same", f"x:{datatype}:-1,2", f"y:{datatype}:-1,2"), lambda x: x)
    values = np.array([[0, 1], [1, 0]]).astype(DATATYPES[datatype]).tobytes()
    asked = head("/predict/same", **OCTETS, accept="application/octet-stream")
    reply = ask(Native(Models(model)), asked, values)
    assert whole(reply) == values
