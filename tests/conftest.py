"""What every test gets."""

import os

import pysqlite3  # noqa: F401 - before TensorFlow, which gives its own, older SQLite to all that is loaded after it
import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says more about what else runs here than about rung.
settings.register_profile("rung", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("rung")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of whoever runs the tests must not change what they test."""
    for name in [name for name in os.environ if name.startswith("RUNG_")]:
        monkeypatch.delenv(name)
