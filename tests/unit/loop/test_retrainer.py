import msgspec
import pytest

from rung.domain.errors import ConfigurationError, InvalidInput
from rung.domain.retraining import STEPS, Decision, Request
from rung.jobs.queue import JobStore
from rung.loop import measuring, requests
from rung.loop.measuring import Measured
from rung.loop.retrainer import Retrainer
from rung.loop.triggers import Seen
from rung.settings.project import ModelSettings, RetrainSection
from rung.store.blobs import DiskStore
from rung.store.database import open_database


class World:
    """A project's stores, a clock that stands still, and a retrainer over them."""

    def __init__(self, jobs, folder):
        self.jobs, self.repository, self.data = jobs, DiskStore(folder / "repository"), DiskStore(folder / "data")
        self.now = 1_000_000.0
        self.models = {"m": ModelSettings(train="m:train", retrain=RetrainSection(on=("labels:100",), least=10))}

    @property
    def retrainer(self):
        """A new one each time: nothing is remembered."""
        return Retrainer(self.jobs, self.repository, self.data, self.models, clock=lambda: self.now)

    def measured(self, **seen):
        found = Measured(Seen(at=self.now, labelled=1000, **seen))
        self.data.put(measuring._key("m"), msgspec.json.encode(found))

    def kinds(self):
        return sorted(job.kind for job in self.jobs.find())


@pytest.fixture
def world(tmp_path):
    with open_database(f"sqlite:///{tmp_path}/rung.db") as database:
        yield World(JobStore(database), tmp_path)


def test_it_has_the_model_measured_once_and_again_when_that_is_lost(world):
    for _ in range(3):
        world.retrainer.turn()
    assert world.kinds() == ["models.watch"]
    world.now += 300
    world.retrainer.turn()
    assert world.kinds() == ["models.watch"] * 2


def test_enough_labels_are_one_retraining(world):
    world.measured(labels=99)
    ((_, decided),) = world.retrainer.turn()
    assert (decided.request, decided.why) == (None, "nothing asks for it")
    world.now += 1
    world.measured(labels=100)
    for _ in range(3):
        world.retrainer.turn()
    (one,) = requests.retrainings(world.data, "m")
    assert one.request.cause == "labels"
    assert [kind for kind in world.kinds() if kind.startswith("retrain")] == sorted(f"retrain.{step}" for step in STEPS)


def test_killed_between_the_request_and_its_jobs_it_goes_on(world):
    world.measured(labels=100)
    # Whoever asked was gone before anything was submitted.
    requests.ask(world.data, "m", Request("labels", "1", "enough labels", world.now))
    assert world.kinds() == []
    world.retrainer.turn()
    assert [kind for kind in world.kinds() if kind.startswith("retrain")] == sorted(f"retrain.{step}" for step in STEPS)


def test_a_person_need_not_wait_but_is_told_what_cannot_be(world):
    first = world.retrainer.ask("m", "ana", "new prices")
    for step in STEPS:
        requests.decide(world.data, "m", first.number, step, Decision("pass", "good", world.now))
    world.now += 1
    assert world.retrainer.ask("m", "ana", "").number == 2
    with pytest.raises(InvalidInput, match=r"'other' is no model that rung\.toml says how to train; there are m"):
        world.retrainer.ask("other", "ana", "")


def test_a_schedule_counts_like_any_other_reason(world):
    world.models["m"] = ModelSettings(train="m:train", retrain=RetrainSection(on=("cron:0 3 * * *",), least=10))
    world.measured()
    assert world.retrainer.due("m", 900.0).request is not None
    assert "answered" in world.retrainer.due("m", 900.0).why
    assert "under way" in world.retrainer.due("m", 901.0).why


def test_one_model_with_a_wrong_setting_does_not_keep_the_others(world):
    bad = ModelSettings(train="m:train", retrain=RetrainSection(on=("moon",)))
    world.models = {"bad": bad, **world.models}
    world.measured(labels=100)
    with pytest.raises(ConfigurationError, match="'moon' starts nothing"):
        world.retrainer.turn()
    assert len(requests.retrainings(world.data, "m")) == 1


def test_a_clock_that_was_set_back_a_day_does_not_stop_the_measuring(world):
    world.measured()
    world.now -= 86_400
    world.retrainer.turn()
    assert world.kinds() == ["models.watch"]
