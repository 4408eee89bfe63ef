"""`ctx.data`: fitted on the training rows alone, labels by number, passes that go on where they stood."""

import numpy as np
import polars as pl
import pytest

from rung.domain.datasets import DatasetVersion
from rung.domain.errors import InvalidData
from rung.settings.project import DataSection
from rung.training.feeding import Feed


class Run:
    """What a feed has to know of a run."""

    seed, rank, world, epoch = 3, 0, 1, 0

    def __init__(self, halts_after: int = 10**9) -> None:
        self.planned, self._left = 0, halts_after

    def plan(self, steps: int) -> None:
        self.planned = steps

    def halt(self) -> bool:
        self._left -= 1
        return self._left <= 0


def feed(train, validation, kinds=None, labels=(), run=None, **section):
    version = DatasetVersion("m", "0" * 64, kinds or dict.fromkeys(train.columns, "number"), ())
    made = Feed(version, {"train": train, "validation": validation}, DataSection(**section), labels=labels)
    made.bind(run or Run())
    return made


NUMBERS = pl.DataFrame({"x": [float(i) for i in range(10)], "y": [2.0 * i for i in range(10)]})


def test_what_turns_rows_into_numbers_knows_the_training_rows_alone():
    far = pl.DataFrame({"x": [1000.0, 4.5], "y": [0.0, 0.0]})
    data = feed(NUMBERS, far, label="y")
    # Asked for the validation rows first: they still have no say.
    inside, _ = data.arrays("validation", scale=True)
    scaled, targets = data.arrays("train")
    assert inside.dtype == np.float32
    assert abs(float(scaled.mean())) < 1e-6
    assert abs(float(scaled.std()) - 1) < 1e-5
    assert inside[0, 0] > 100
    assert abs(inside[1, 0]) < 1e-6
    assert targets.tolist() == NUMBERS["y"].to_list()


def test_features_are_the_columns_that_no_setting_names():
    rows = pl.DataFrame({name: [1.0] for name in "abcdefg"})
    assert feed(rows, rows, label="a", time="b", group="c", split="d", ignore=("e",)).features == ("f", "g")
    assert feed(rows, rows, label="a", features=("c",)).features == ("c",)


def test_classes_are_numbered_in_the_order_of_the_labels():
    rows = pl.DataFrame({"x": [1.0, 2.0, 3.0], "y": ["no", "yes", "no"]})
    kinds = {"x": "number", "y": "category"}
    found = feed(rows, rows, kinds, label="y")
    assert found.arrays("train")[1].tolist() == [0, 1, 0]
    assert found.labels == ("no", "yes")
    named = feed(rows, rows, kinds, ("yes", "no"), label="y")
    numbers = named.arrays("train")[1]
    assert (numbers.tolist(), numbers.dtype) == ([1, 0, 1], np.int64)


def test_a_label_that_training_never_saw_is_named():
    rows = pl.DataFrame({"x": [1.0, 2.0], "y": ["no", "yes"]})
    other = pl.DataFrame({"x": [1.0, 2.0], "y": ["no", "maybe"]})
    data = feed(rows, other, {"x": "number", "y": "category"}, label="y")
    with pytest.raises(InvalidData, match=r"'y' holds 'maybe', which is none of no, yes"):
        data.arrays("validation")


def test_without_a_label_there_are_no_arrays_and_no_split_of_another_name():
    data = feed(NUMBERS, NUMBERS)
    with pytest.raises(InvalidData, match=r"data\.label"):
        data.arrays()
    with pytest.raises(InvalidData, match=r"'training'; there are train, validation"):
        data.frame("training")


def xs(batches):
    return [batch["x"].tolist() for batch in batches]


def test_a_pass_goes_on_behind_the_batch_at_which_it_was_halted():
    whole = xs(feed(NUMBERS, NUMBERS).batches("train", 3))
    assert sorted(x for batch in whole for x in batch) == NUMBERS["x"].to_list()
    first = feed(NUMBERS, NUMBERS, run=Run(halts_after=2))
    begun = xs(first.batches("train", 3))
    second = feed(NUMBERS, NUMBERS)
    second.restore(first.state())
    assert begun + xs(second.batches("train", 3)) == whole
    assert len(begun) == 2


def test_a_second_pass_within_an_epoch_is_a_whole_one_and_is_found_again_too():
    first = feed(NUMBERS, NUMBERS, run=Run(halts_after=5))
    one, two = xs(first.batches("train", 3)), xs(first.batches("train", 3, transform=lambda batch, **_: batch))
    assert one[0] == two[0]
    assert (len(one), len(two)) == (4, 1)
    second = feed(NUMBERS, NUMBERS)
    second.restore(first.state())
    # The first was over before the interruption.
    assert xs(second.batches("train", 3)) == []
    assert two + xs(second.batches("train", 3)) == one


def test_each_pass_has_its_own_transform():
    data = feed(NUMBERS, NUMBERS)
    doubled = list(data.batches("validation", 10, transform=lambda batch, **_: batch["x"] * 2))
    plain = list(data.batches("validation", 10))
    assert doubled[0].tolist() == (plain[0]["x"] * 2).tolist()


def test_the_next_epoch_begins_at_its_beginning_in_another_order():
    run = Run()
    data = feed(NUMBERS, NUMBERS, run=run)
    one = xs(data.batches("train", 3))
    run.epoch = 1
    data.turn()
    assert data.state() == {}
    two = xs(data.batches("train", 3))
    assert len(two) == run.planned == 4
    assert one != two


def test_validation_rows_stay_in_their_order_and_do_not_count_as_progress():
    data = feed(NUMBERS, NUMBERS)
    assert [x for batch in xs(data.batches("validation", 4)) for x in batch] == NUMBERS["x"].to_list()
    assert data.state() == {}
