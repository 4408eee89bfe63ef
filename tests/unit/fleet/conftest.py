"""Records of a rollout, made up."""

from collections.abc import Callable, Iterator

import pytest

from rung.domain.records import PredictionRecord
from rung.domain.releases import Release, arm_at, bucket


@pytest.fixture
def units_of() -> Callable[[Release, str], Iterator[str]]:
    """Units that the lot puts into an arm."""

    def find(release: Release, arm: str) -> Iterator[str]:
        for number in range(10_000_000):
            if arm_at(release.ranges, bucket(release.salt, f"u{number}")) == arm:
                yield f"u{number}"

    return find


@pytest.fixture
def predict() -> Callable[..., PredictionRecord]:
    """A prediction of an arm's version for a unit, with further fields as given."""
    counter = iter(range(10_000_000))

    def make(release: Release, arm: str, unit: str, **fields: object) -> PredictionRecord:
        found = release.arm(arm)
        values: dict[str, object] = {"total": 0.01, "time": 1_800_000_000.0} | fields
        return PredictionRecord(
            id=f"p{next(counter)}",
            model=release.model,
            version=found.version if found else 0,
            arm=arm,
            epoch=release.epoch,
            unit=unit,
            **values,  # type: ignore[arg-type]
        )

    return make
