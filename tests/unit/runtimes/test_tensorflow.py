"""SavedModels: which signature is served, and what is refused."""

import numpy as np
import pytest

from rung.catalog.artifacts import recognise
from rung.domain.errors import BundleError
from rung.domain.tensors import TensorSpec
from rung.ports import LoadOptions
from rung.runtimes.tensorflow import TensorFlowRuntime
from rung.testing import models_deep as models

pytest.importorskip("tensorflow")
ROWS = np.arange(12, dtype="<f4").reshape(3, 4)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A SavedModel with two signatures, none of them the default."""
    folder, _ = models.saved_model(tmp_path_factory.mktemp("saved") / "two", twice="double", words="text")
    return folder


def test_two_signatures_and_none_chosen(two):
    with pytest.raises(
        BundleError, match=r"signatures \['twice', 'words'\].*signature\.json.*\"signature\": \"twice\""
    ):
        TensorFlowRuntime().load(two, LoadOptions())


def test_a_chosen_signature_is_served(two, capfd):
    (two / "signature.json").write_text('{"signature": "words"}')
    model = TensorFlowRuntime().load(two, LoadOptions())
    try:
        assert recognise(two) == ("tensorflow", two)
        assert model.signature.inputs == (TensorSpec("x", "FP32", (-1, 4)),)
        assert model.signature.outputs == (TensorSpec("text", "BYTES", (-1,)),)
        assert model.signature.batched
        assert model.predict({"x": ROWS})["text"].tolist() == [b"0.0", b"4.0", b"8.0"]
    finally:
        model.close()
        (two / "signature.json").unlink()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("text", "words"), [("{", "has to be"), ('{"signature": "third"}', "there are .*twice")])
def test_a_wrong_choice_is_refused(two, text, words):
    (two / "signature.json").write_text(text)
    try:
        with pytest.raises(BundleError, match=words):
            TensorFlowRuntime().load(two, LoadOptions())
    finally:
        (two / "signature.json").unlink()


def test_a_model_that_reads_files_is_refused(tmp_path):
    folder, _ = models.saved_model(tmp_path / "reader", serving_default="file")
    with pytest.raises(BundleError, match="operator ReadFile"):
        TensorFlowRuntime().load(folder, LoadOptions())


def test_operators_that_tensorflow_lacks_are_named(two, tmp_path):
    graph = (two / "saved_model.pb").read_bytes()
    assert b"AsString" in graph
    folder = tmp_path / "custom"
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(graph.replace(b"AsString", b"AsStrinq"))
    with pytest.raises(BundleError, match=r"operator AsStrinq.*custom operators cannot be served"):
        TensorFlowRuntime().load(folder, LoadOptions())


@pytest.mark.parametrize("graph", [b"", b"no protobuf at all", b"\x80\x04}\x94."])
def test_files_that_are_no_graph(tmp_path, graph):
    (tmp_path / "saved_model.pb").write_bytes(graph)
    with pytest.raises(BundleError, match="cannot be loaded"):
        TensorFlowRuntime().load(tmp_path, LoadOptions())
