"""Real, tiny ONNX models in a real repository, scored on tables."""

import io
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
from PIL import Image

from rung.catalog import models
from rung.domain.errors import ConfigurationError, InvalidData, NotFound
from rung.domain.models import Lineage, Step, Transforms
from rung.domain.scorecards import Scorecard
from rung.ports import BlobStore
from rung.settings.project import DataSection
from rung.store.blobs import open_store
from rung.testing import models_tabular, models_tasks
from rung.training import latency
from rung.training.evaluation import Holdout, evaluate, examine
from rung.training.scorecard_report import write

COLUMNS = {"columns": [{"name": "a", "min": -50, "max": 50}, {"name": "b", "default": 0.0}]}
SECTION = DataSection(label="y")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "_CALLS", 10)


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return open_store(str(tmp_path / "repository"))


def register_line(store: BlobStore, tmp_path: Path, factor: float = 2.0, name: str = "line") -> int:
    """y = factor * a + b."""
    path = models_tasks._save(
        tmp_path / f"line{factor}.onnx",
        "line (float[N, 2] x) => (float[N, 1] y) { y = MatMul(x, weight) }",
        {"weight": np.array([[factor], [1]], np.float32)},
    )
    steps = Transforms((Step("tabular.columns", COLUMNS),), (Step("regression.value"),))
    return models.register(store, path, name=name, task="regression", transforms=steps).version


def register_three(store: BlobStore, tmp_path: Path, labels: tuple[str, ...], name: str = "three") -> int:
    """The probabilities of three classes, which the columns are the logits of."""
    path = models_tasks._save(
        tmp_path / "three.onnx", "three (float[N, 3] x) => (float[N, 3] p) { p = Softmax<axis = 1>(x) }", {}
    )
    columns = {"columns": [{"name": one} for one in "abc"]}
    head = Step("classification.top_k", {"k": 1, "threshold": 0.5})
    steps = Transforms((Step("tabular.columns", columns),), (head,))
    return models.register(store, path, name=name, task="classification", labels=labels, transforms=steps).version


def register_bright(store: BlobStore, tmp_path: Path) -> int:
    """Where a picture is bright."""
    path = models_tasks._save(
        tmp_path / "bright.onnx",
        """bright (float[N, 3, 32, 32] image) => (float[N, 1, 32, 32] probability) {
            light = ReduceMean<axes = [1], keepdims = 1>(image)
            above = Sub(light, level)
            steep = Mul(above, factor)
            probability = Sigmoid(steep)
        }""",
        {"level": np.array(0.5, np.float32), "factor": np.array(40, np.float32)},
    )
    before = ("image.decode", {}), ("image.resize", {"height": 32, "width": 32}), ("image.normalize", {})
    steps = Transforms(
        tuple(Step(*one) for one in (*before, ("image.layout", {}))),
        (Step("segmentation.mask", {"activation": "none"}),),
    )
    return models.register(store, path, name="bright", task="segmentation", labels=("spot",), transforms=steps).version


def line_rows(rows: int = 80, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 3, rows), rng.normal(0, 1, rows)
    return pl.DataFrame({"a": a, "b": b, "y": 2 * a + b + rng.normal(0, 0.5, rows), "site": rng.integers(0, 20, rows)})


def class_rows(rows: int = 120, seed: int = 0, labels: tuple[str, ...] = ("x", "y", "z")) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    truth = rng.integers(3, size=rows)
    logits = rng.normal(0, 1, (rows, 3))
    logits[np.arange(rows), truth] += 2
    return pl.DataFrame({name: logits[:, place] for place, name in enumerate("abc")}).with_columns(
        kind=pl.Series([labels[one] for one in truth])
    )


def picture_rows(rows: int = 24, *, shift: int = 0) -> pl.DataFrame:
    """A bright square each, at a place of its own; `shift` moves the mask off it."""
    rng = np.random.default_rng(1)
    made = []
    for number in range(rows):
        image = rng.integers(0, 60, (32, 32, 3)).astype(np.uint8)
        mask = np.zeros((32, 32), np.uint8)
        top, left = rng.integers(2, 14, 2)
        image[top : top + 12, left : left + 12] += 190
        moved = shift if number == 5 else 0
        mask[top + moved : top + 12 + moved, left : left + 12] = 255
        made.append({"name": f"{number}.png", "image": png(image), "mask": png(mask)})
    return pl.DataFrame(made)


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_regression_is_scored_through_its_own_transforms(store: BlobStore, tmp_path: Path) -> None:
    frame = line_rows().with_columns(a=pl.when(pl.int_range(80) == 7).then(99.0).otherwise(pl.col("a")))
    frame = frame.with_columns(b=pl.when(pl.int_range(80) == 9).then(None).otherwise(pl.col("b")))

    card = evaluate(store, "line", register_line(store, tmp_path), frame, SECTION)

    kept = frame.filter(pl.int_range(80) != 7)
    error = (2 * kept["a"] + kept["b"].fill_null(0) - kept["y"]).to_numpy()
    assert card.metric == "rmse"
    assert card.headline.value == pytest.approx(np.sqrt((error**2).mean()), rel=1e-4)
    assert card.headline.low < card.headline.value < card.headline.high
    assert (card.rows, card.headline.rows, card.refused) == (79, 79, 1)
    assert card.refusals == ("row 8: column 'a': 99 is over the maximum 50",)
    assert "1 of 80 rows were refused" in " ".join(card.notes)
    assert {"mae", "r2", "bias"} <= set(card.metrics)
    assert card.size > 100
    assert [one.rows for one in card.latency] == [1, 32]
    assert all(one.p50.rows == 10 and one.p99 is None for one in card.latency)


def test_a_classifier_is_scored_on_all_its_classes_whatever_its_head_shows(store: BlobStore, tmp_path: Path) -> None:
    """The head gives one class, and none under 0.5: scores need them all."""
    frame = class_rows()
    card = evaluate(store, "three", register_three(store, tmp_path, ("x", "y", "z")), frame, DataSection(label="kind"))

    logits = frame.select("a", "b", "c").to_numpy()
    right = np.array(["x", "y", "z"])[logits.argmax(axis=1)] == frame["kind"].to_numpy()
    assert card.headline.name == "accuracy"
    assert card.headline.value == pytest.approx(right.mean())
    assert card.confusion is not None
    assert sum(map(sum, card.confusion.counts)) == 120
    assert card.calibration is not None
    assert sum(one.rows for one in card.calibration.bins) == 120
    assert {"f1", "auc", "log_loss", "brier", "calibration_error"} <= set(card.metrics)
    assert ("recall", "z") in {(one.name, one.of) for one in card.figures}


def test_classes_without_labels_go_by_number(store: BlobStore, tmp_path: Path) -> None:
    frame = class_rows(labels=("0", "1", "2")).with_columns(pl.col("kind").cast(pl.Int64))
    card = evaluate(store, "three", register_three(store, tmp_path, ()), frame, DataSection(label="kind"))
    assert card.headline.value > 0.6

    with pytest.raises(InvalidData, match="holds 3, and three version 1 knows the classes 0, 1, 2"):
        evaluate(store, "three", 1, frame.with_columns(pl.col("kind") + 1), DataSection(label="kind"))


def test_a_booster_without_input_steps_takes_the_features_in_their_order(store: BlobStore, tmp_path: Path) -> None:
    path = models_tabular.xgboost_model(tmp_path / "patients.ubj", "reg:squarederror")
    version = models.register(store, path, name="patients", task="regression").version
    rows, illness = models_tabular.patients()
    frame = pl.DataFrame(rows, schema=[f"f{one}" for one in range(10)]).with_columns(illness=illness)

    card = evaluate(store, "patients", version, frame, DataSection(label="illness"), metric="r2")

    import xgboost

    said = xgboost.Booster(model_file=str(path)).predict(xgboost.DMatrix(rows))
    explained = 1 - ((said - illness) ** 2).sum() / ((illness - illness.mean()) ** 2).sum()
    assert card.headline.value == pytest.approx(explained, abs=1e-4)
    assert card.headline.low < card.headline.value < card.headline.high


def test_texts_are_scored_by_the_class_that_the_head_names(store: BlobStore, tmp_path: Path) -> None:
    path = models_tasks.messages(tmp_path / "messages.onnx")
    manifest = models.register(
        store,
        path,
        name="messages",
        task="text-classification",
        labels=("ham", "spam"),
        transforms=models_tasks.MESSAGES_STEPS,
    )
    told = [(text.upper(), label) for label, texts in models_tasks.MESSAGES.items() for text in texts]
    frame = pl.DataFrame(told, schema=["text", "label"], orient="row")

    card = evaluate(store, "messages", manifest.version, frame, DataSection(label="label"))

    assert (card.task, card.headline.value) == ("classification", 1.0)
    assert card.headline.low < 0.9
    with pytest.raises(InvalidData, match=r"text, other hold text: name the column in data\.features"):
        evaluate(store, "messages", 1, frame.with_columns(other=pl.col("text")), DataSection(label="label"))


def test_masks_are_compared_and_the_worst_are_shown(store: BlobStore, tmp_path: Path) -> None:
    frame = picture_rows(shift=4)
    section = DataSection(label="mask", features=("image",))
    found = examine(store, "bright", register_bright(store, tmp_path), Holdout(frame, section))

    card = found.card
    # The square and its mask overlap in 8 of 16 lines.
    assert card.worst[0].name == "5.png"
    assert card.worst[0].iou == pytest.approx(0.5)
    assert card.worst[0].dice == pytest.approx(8 / 12)
    assert card.headline.value == pytest.approx((23 + 0.5) / 24)
    assert len(card.worst) == 10
    assert [one.iou for one in card.worst] == sorted(one.iou for one in card.worst)

    files = {path.name for path in write(found, tmp_path / "card")}
    assert {"overlap.png", "worst-01.png", "worst-10.png", "scorecard.html", "scorecard.json"} <= files
    page = (tmp_path / "card" / "scorecard.html").read_text()
    assert page.count("data:image/png;base64,") == 11
    assert "http" not in page.replace("<!doctype html>", "")
    read = msgspec.json.decode((tmp_path / "card" / "scorecard.json").read_bytes(), type=Scorecard)
    assert read == card


def test_a_mask_of_another_size_is_named(store: BlobStore, tmp_path: Path) -> None:
    frame = picture_rows(3).with_columns(mask=pl.lit(png(np.zeros((8, 9), np.uint8))))
    with pytest.raises(InvalidData, match="row 1: the mask in 'mask' is 9 x 8, its picture 32 x 32"):
        evaluate(
            store, "bright", register_bright(store, tmp_path), frame, DataSection(label="mask", features=("image",))
        )


def test_groups_slices_and_the_difference_of_two_versions(store: BlobStore, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    frame = line_rows(400)
    bad = rng.random(400) < 0.3
    frame = frame.with_columns(
        pl.Series("kind", np.where(bad, "bad", "good")),
        y=pl.col("y") + pl.Series(np.where(bad, rng.normal(0, 5, 400), 0.0)),
        rare=pl.when(pl.int_range(400) < 4).then(pl.lit("new")).otherwise(pl.lit("old")),
    )
    section = DataSection(label="y", group="site", slices=("kind", "rare"), ignore=("kind", "rare"))
    register_line(store, tmp_path, 2.0)
    second = register_line(store, tmp_path, 2.5)

    card = examine(store, "line", second, Holdout(frame, section, metric="mae"), against=1).card

    assert (card.headline.name, card.headline.groups, card.headline.method) == (
        "mae",
        20,
        "t of the logarithm by group",
    )
    slices = {one.name: one for one in card.slices}
    assert slices["kind = bad"].worse
    assert not slices["kind = good"].worse
    assert slices["rare = new"].figure is None
    assert "too few: 4 groups" in slices["rare = new"].note or "too few: 3 groups" in slices["rare = new"].note
    assert card.comparison is not None
    head = card.comparison.differences[0]
    assert (head.figure.name, head.standing) == ("mae", "worse")
    assert head.figure.low > 0
    assert head.value - head.other == pytest.approx(head.figure.value)
    assert card.comparison.rows == 400


def test_a_version_against_itself_is_inconclusive(store: BlobStore, tmp_path: Path) -> None:
    version = register_three(store, tmp_path, ("x", "y", "z"))
    card = examine(store, "three", version, Holdout(class_rows(), DataSection(label="kind")), against=version).card

    assert card.comparison is not None
    assert {one.standing for one in card.comparison.differences} == {"inconclusive"}
    head = card.comparison.differences[0].figure
    assert head.low < 0 < head.high
    assert card.comparison.agree is not None
    assert card.comparison.agree.value == 1
    assert card.comparison.agree.low < 1


def test_what_a_reader_has_to_know_is_noted(store: BlobStore, tmp_path: Path) -> None:
    version = register_line(store, tmp_path)
    card = examine(store, "line", version, Holdout(line_rows(), SECTION, dataset="abc", learned=line_rows(seed=5))).card
    assert any("nothing is known of what the version was trained on" in note for note in card.notes)
    assert [one.outcome for one in card.checks] == ["pass", "pass"]

    path = tmp_path / "line2.0.onnx"
    steps = Transforms((Step("tabular.columns", COLUMNS),), (Step("regression.value"),))
    other = models.register(
        store, path, name="line", task="regression", transforms=steps, lineage=Lineage(data={"line": "old"})
    )
    card = examine(store, "line", other.version, Holdout(line_rows(), SECTION, dataset="new")).card
    assert card.trained_on == ("old",)
    assert any("another dataset version" in note for note in card.notes)
    assert any("nothing was checked for leakage" in note for note in card.notes)


@pytest.mark.parametrize(
    ("frame", "section", "reason"),
    [
        (line_rows(), DataSection(), "data.label names no column"),
        (line_rows(), DataSection(label="price"), "there is no column 'price'"),
        (line_rows().drop("a"), SECTION, "takes the column 'a', and the data has b, y, site"),
        (line_rows().with_columns(y=None), SECTION, "is empty in 80 of 80 rows"),
        (line_rows().with_columns(y=pl.lit("many")), SECTION, "a regression gives numbers"),
        (line_rows().with_columns(a=99.0), SECTION, "not one of 80 rows was answered; row 1: column 'a'"),
        (line_rows(2_000).with_columns(a=99.0), SECTION, "the first 1024 rows were all refused; row 1: column 'a'"),
        (line_rows(1), SECTION, "an interval takes two at least"),
        (line_rows(), DataSection(label="y", slices=("town",)), "there is no column 'town'"),
    ],
)
def test_data_that_cannot_be_scored(
    store: BlobStore, tmp_path: Path, frame: pl.DataFrame, section: DataSection, reason: str
) -> None:
    version = register_line(store, tmp_path)
    with pytest.raises(InvalidData, match=reason):
        evaluate(store, "line", version, frame, section)


def test_versions_and_metrics_that_there_are_not(store: BlobStore, tmp_path: Path) -> None:
    version = register_line(store, tmp_path)
    with pytest.raises(ConfigurationError, match="accuracy is no metric of a regression: choose one of mae"):
        evaluate(store, "line", version, line_rows(), SECTION, metric="accuracy")
    with pytest.raises(ConfigurationError, match="cannot be scored as classification: its output step is regression"):
        evaluate(store, "line", version, line_rows(), SECTION, task="classification")
    with pytest.raises(NotFound):
        evaluate(store, "line", 9, line_rows(), SECTION)
