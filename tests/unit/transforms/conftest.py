"""Real models to put the steps round."""

import pytest

from rung.ports import LoadOptions
from rung.runtimes.onnx import OnnxRuntime
from rung.testing import models_tasks


def _loaded(build, tmp_path_factory):
    model = OnnxRuntime().load(build(tmp_path_factory.mktemp("tasks") / "model.onnx"), LoadOptions())
    return model, model.signature


@pytest.fixture(scope="session")
def digits_model(tmp_path_factory):
    return _loaded(models_tasks.digits, tmp_path_factory)


@pytest.fixture(scope="session")
def blobs_model(tmp_path_factory):
    return _loaded(models_tasks.blobs, tmp_path_factory)


@pytest.fixture(scope="session")
def messages_model(tmp_path_factory):
    return _loaded(models_tasks.messages, tmp_path_factory)


@pytest.fixture(scope="session")
def words_model(tmp_path_factory):
    return _loaded(models_tasks.words, tmp_path_factory)
