import importlib
from types import SimpleNamespace

import pytest

from rung.app.handlers import HANDLERS, SUBMITTED, erase, verify
from rung.catalog import models as catalog
from rung.domain.errors import InvalidInput
from rung.store.blobs import DiskStore
from rung.testing.models import tiny


def context(kind, **arguments):
    return SimpleNamespace(arguments=arguments, job=SimpleNamespace(kind=kind))


def test_every_row_names_a_function():
    for handler in HANDLERS.values():
        module, _, name = handler.target.partition(":")
        assert callable(getattr(importlib.import_module(module), name))
    assert set(SUBMITTED) <= set(HANDLERS)


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "rung.toml").write_text("[project]\nrepository = 'here'")
    catalog.register(DiskStore(tmp_path / "here"), tiny(tmp_path / "tiny.onnx"), name="tiny")
    monkeypatch.chdir(tmp_path)


def test_a_version_is_verified(project):
    found = verify(context("models.verify", model="tiny"))

    assert (found["version"], found["examples"], found["problem"]) == (1, 2, "")


@pytest.mark.parametrize("arguments", [{}, {"model": 1}, {"model": "tiny", "path": "/"}])
def test_other_arguments_are_refused(project, arguments):
    with pytest.raises(InvalidInput, match=r"models\.verify"):
        verify(context("models.verify", **arguments))


def test_a_unit_of_which_nothing_is_known_is_erased(project):
    assert erase(context("predictions.erase", unit="u-1"))["rows"] == 0
    with pytest.raises(InvalidInput):
        erase(context("predictions.erase", unit="u-1", log="/etc"))
