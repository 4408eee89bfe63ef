import io
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from PIL import Image

from rung.domain.rules import Verdict
from rung.settings.project import DataSection
from rung.training.leakage import check


def _table(rows: int, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    truth = rng.integers(2, size=rows)
    return pl.DataFrame(
        {
            "id": rng.permutation(rows) + 10_000 * seed,
            "amount": rng.normal(0, 1, rows) + truth,
            "town": rng.choice(["a", "b", "c"], rows),
            "user": rng.integers(0, 50, rows) + 100 * seed,
            "at": [datetime(2026, seed + 1, 1, tzinfo=UTC) + timedelta(minutes=one) for one in range(rows)],
            "label": truth,
        }
    )


def _found(
    train: pl.DataFrame, holdout: pl.DataFrame, section: DataSection, task: str = "classification"
) -> dict[str, Verdict]:
    return {one.rule: one for one in check(train, holdout, section, task=task)}


SECTION = DataSection(label="label", time="at", group="user", key=("id",))


def test_clean_data_passes_every_check() -> None:
    found = _found(_table(600, 1), _table(200, 2), SECTION)
    assert {name: one.outcome for name, one in found.items()} == dict.fromkeys(
        ("rows in both", "content in both", "groups in both", "holdout is later", "feature gives it away"), "pass"
    )


def test_rows_on_both_sides() -> None:
    train, holdout = _table(600, 1), _table(200, 2)
    mixed = pl.concat([holdout, train[:3]])

    by_key = _found(train, mixed, DataSection(label="label", key=("id",)))["rows in both"]
    assert (by_key.outcome, by_key.evidence["found"], by_key.evidence["first"]) == ("fail", 3, [200, 201, 202])
    # The same message under another number.
    again = mixed.with_columns(id=pl.int_range(90_000, 90_000 + mixed.height))
    renamed = _found(train, again, DataSection(label="label", key=("id",), features=("amount", "town")))
    assert renamed["rows in both"].outcome == "pass"
    assert (renamed["content in both"].outcome, renamed["content in both"].evidence["found"]) == ("fail", 3)
    few = _found(train, pl.concat([holdout, train[:1]]), DataSection(label="label"))["content in both"]
    assert few.outcome == "inconclusive"
    assert _found(train, mixed, DataSection(label="label"))["content in both"].outcome == "fail"


def test_groups_and_times_on_both_sides() -> None:
    train, holdout = _table(600, 1), _table(200, 2)
    back = holdout.with_columns(at=pl.when(pl.int_range(200) == 0).then(train["at"][0]).otherwise(pl.col("at")))

    assert _found(train, pl.concat([holdout, train[:1]]), SECTION)["groups in both"].outcome == "fail"
    late = _found(train, back, SECTION)["holdout is later"]
    assert (late.outcome, late.evidence["found"]) == ("fail", 1)


@pytest.mark.parametrize("leak", ["copy", "text", "noisy"])
def test_a_feature_that_gives_the_label_away(leak: str) -> None:
    def with_leak(frame: pl.DataFrame, seed: int) -> pl.DataFrame:
        rng = np.random.default_rng(seed)
        truth = frame["label"].to_numpy()
        values = {
            "copy": truth,
            "text": np.where(truth == 1, "closed", "open"),
            "noisy": truth * 10 + rng.normal(0, 1, len(truth)),
        }
        return frame.with_columns(pl.Series("state", values[leak]))

    found = _found(with_leak(_table(600, 1), 1), with_leak(_table(300, 2), 2), SECTION)["feature gives it away"]
    assert found.outcome == "fail"
    assert "'state' alone predicts 'label'" in found.why


def test_a_number_that_gives_a_number_away() -> None:
    def rows(count: int, seed: int) -> pl.DataFrame:
        rng = np.random.default_rng(seed)
        price = rng.uniform(0, 1000, count)
        return pl.DataFrame({"size": price / 10 + rng.normal(0, 30, count), "tax": price * 0.19, "price": price})

    leaking = _found(rows(2_000, 1), rows(300, 2), DataSection(label="price"), "regression")
    clean = _found(rows(2_000, 1), rows(300, 2), DataSection(label="price", ignore=("tax",)), "regression")
    assert "'tax'" in leaking["feature gives it away"].why
    assert leaking["feature gives it away"].outcome == "fail"
    assert clean["feature gives it away"].outcome == "pass"


def _picture(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 6, 3)).astype(np.uint8)).resize(
        (96, 96), Image.Resampling.BICUBIC
    )
    return np.asarray(coarse)


def _bytes(array: np.ndarray, kind: str = "PNG", **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def test_pictures_that_look_alike() -> None:
    train = [_bytes(_picture(one)) for one in range(120)]
    other = [_bytes(_picture(one)) for one in range(500, 560)]
    small = np.asarray(Image.fromarray(_picture(3)).resize((64, 64)))
    copies = [_bytes(_picture(1), "JPEG", quality=60), _bytes(small), _bytes((_picture(2) * 0.9).astype(np.uint8))]

    def found(holdout: list[bytes]) -> Verdict:
        frames = (pl.DataFrame({"image": side, "kind": "a"}) for side in (train, holdout))
        section = DataSection(label="kind", features=("image",))
        return next(one for one in check(*frames, section, task="classification") if "near-dup" in one.rule)

    assert found(other).outcome == "pass"
    again = found(other + copies)
    assert (again.outcome, again.evidence["first"]) == ("fail", [60, 61, 62])
    # A picture with nothing on it is like every other one, and says nothing.
    blank = _bytes(np.full((96, 96, 3), 30, np.uint8))
    assert found([*other, blank, b"no picture"]).outcome == "pass"
