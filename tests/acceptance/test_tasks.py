"""Each task with a tiny real model, from the command line to the answer: registered, served, asked."""

import json
import urllib.error
import urllib.request
from pathlib import Path

import msgspec
import pytest

from rung.domain.models import Transforms
from rung.testing import models_tasks

ROOT = Path(__file__).parents[2]
SPAM = ROOT.parent / "shared" / "data" / "sms_spam" / "SMSSpamCollection.tsv"
JSON = {"Content-Type": "application/json"}
TEXT = {"Content-Type": "text/plain"}
PNG = {"Content-Type": "image/png"}


def ask(url, body, headers):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=30) as reply:
        return json.loads(reply.read()) if reply.headers.get_content_type() == "application/json" else reply.read()


def refusal(url, body, headers):
    with pytest.raises(urllib.error.HTTPError) as error:
        ask(url, body, headers)
    return error.value.code, json.loads(error.value.read())["error"]


@pytest.fixture
def register(rung, tmp_path):
    """`register(artifact, *args, steps=None) -> what it printed`: publish into the test's repository."""

    def run(artifact, *args, steps=None):
        if steps is not None:
            (tmp_path / "steps.json").write_bytes(msgspec.json.encode(steps))
            args = (*args, "--transforms", "steps.json")
        done = rung("models", "register", artifact, *args)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_pictures_are_classified(register, serve, tmp_path):
    models_tasks.digits(tmp_path / "digits.onnx")
    steps = Transforms(input=models_tasks.DIGITS_STEPS.input)
    told = register("digits.onnx", "--task", "image-classification", "--labels", "0,1,2,3,4,5,6,7,8,9", steps=steps)
    assert 'image-classification: its answers go through classification.top_k {"activation":"none"}' in told

    url = serve(".rung/repository").url + "/predict/digits"
    best = ask(url, models_tasks.digit_png(3), PNG)["predictions"][0]
    assert best[0]["label"] == "3"
    assert best[0]["score"] > 0.9
    assert len(best) == 5


def test_things_are_detected_and_drawn(register, serve, tmp_path):
    models_tasks.blobs(tmp_path / "blobs.onnx")
    register("blobs.onnx", "--task", "detection", "--labels", "red,blue", steps=models_tasks.BLOBS_STEPS)
    url = serve(".rung/repository").url + "/predict/blobs"
    picture = models_tasks.spots_png()

    seen = ask(url, picture, PNG)["predictions"][0]
    assert seen["size"] == [300, 480]
    assert sorted(item["label"] for item in seen["objects"]) == ["blue", "red", "red"]
    assert ask(url + "?view=overlay", picture, PNG).startswith(b"\x89PNG")


def test_texts_are_classified_by_a_task_and_labels_alone(register, serve, tmp_path):
    models_tasks.messages(tmp_path / "messages.onnx")
    told = register("messages.onnx", "--task", "text-classification", "--labels", "ham,spam")
    assert 'classification.top_k {"activation":"none","output":"probabilities"}' in told

    url = serve(".rung/repository").url + "/predict/messages"
    assert ask(url, b"win a free prize, claim now", TEXT)["predictions"][0][0]["label"] == "spam"
    several = ask(url, {"text": ["see you at the station", "claim your cash prize"]}, JSON)["predictions"]
    assert [best[0]["label"] for best in several] == ["ham", "spam"]


@pytest.mark.skipif(not SPAM.exists(), reason="the collection of messages is not here")
def test_real_messages_are_told_apart(register, serve, tmp_path):
    lines = [line.split("\t", 1) for line in SPAM.read_text().splitlines()]
    labels, texts = [label for label, _ in lines], [text for _, text in lines]
    models_tasks.messages(tmp_path / "messages.onnx", texts[:4000], labels[:4000])
    register(
        "messages.onnx",
        "--task",
        "text-classification",
        "--labels",
        "ham,spam",
        steps=models_tasks.MESSAGES_STEPS,
    )

    url = serve(".rung/repository").url + "/predict/messages"
    answers = ask(url, {"text": texts[4000:]}, JSON)["predictions"]
    right = sum(best[0]["label"] == label for best, label in zip(answers, labels[4000:], strict=True))
    assert right / len(answers) > 0.96


def test_rows_are_checked_by_name_before_the_model_sees_them(register, serve, tmp_path):
    models_tasks.flats(tmp_path / "flats.onnx")
    register("flats.onnx", "--task", "tabular-regression", steps=models_tasks.FLATS_STEPS)
    served = serve(".rung/repository")
    url = served.url + "/predict/flats"

    row = {"area": 80, "rooms": 3, "district": "centre", "balcony": True}
    (price,) = ask(url, [row], JSON)["predictions"]
    assert price["unit"] == "EUR"
    assert price["value"] == pytest.approx(models_tasks.flat_price(**row), rel=0.05)
    code, reason = refusal(url, [row, {**row, "district": "moon"}], JSON)
    assert code == 400
    assert reason == "row 1, column 'district': 'moon' is a new category; there are centre, north, south"
    assert "column 'rooms': it is missing" in refusal(url, [{"area": 80}], JSON)[1]
    several = ask(url + "/batch", [row, {**row, "area": -1}, row], JSON)["predictions"]
    assert several[0] == several[2] == price
    assert several[1] == {"error": "column 'area': -1 is under the minimum 10"}
    # What the server itself proposes must be taken.
    example = ask_for_example(url)
    assert ask(url, example, JSON)["predictions"][0]["unit"] == "EUR"


def ask_for_example(url):
    with urllib.request.urlopen(url, timeout=30) as reply:
        line = json.loads(reply.read())["curl"]
    return json.loads(line.partition("'")[2].partition("'")[0])


def test_texts_become_vectors(register, serve, tmp_path):
    models_tasks.words(tmp_path / "words.onnx")
    register("words.onnx", "--task", "embedding", steps=Transforms(input=models_tasks.WORDS_STEPS.input))
    url = serve(".rung/repository").url + "/predict/words"

    (vector,) = ask(url, b"the cats running", TEXT)["predictions"]
    assert len(vector) == 8
    assert sum(value * value for value in vector) == pytest.approx(1, rel=1e-5)


def test_labels_that_do_not_fit_are_refused_or_said(register, rung, tmp_path):
    models_tasks.digits(tmp_path / "digits.onnx")
    told = register("digits.onnx", "--task", "classification", "--labels", "a,b,c")
    assert "no output step fits the task 'classification'" in told

    steps = Transforms(output=models_tasks.DIGITS_STEPS.output)
    (tmp_path / "steps.json").write_bytes(msgspec.json.encode(steps))
    done = rung("models", "register", "digits.onnx", "--labels", "a,b,c", "--transforms", "steps.json")
    assert done.returncode != 0
    assert "there are 3 labels (a, b, c) for a model of 10 classes" in done.stderr
