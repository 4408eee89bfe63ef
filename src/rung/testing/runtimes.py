"""The conformance suite of `Runtime` and `Model`: a framework is supported when it passes.

A test module of yours:

    class TestMine(RuntimeConformance):
        runtime = MyRuntime()

        @pytest.fixture
        def case(self, tmp_path):
            return RuntimeCase(artifact=..., inputs={...}, expected={...}, poison={...}, bad={"empty": ...})
"""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from rung.domain.errors import BundleError, InvalidInput, ModelError
from rung.domain.tensors import DATATYPES, Tensors
from rung.ports import LoadOptions, Model, Runtime

__all__ = ["RuntimeCase", "RuntimeConformance"]


class RuntimeCase(msgspec.Struct):
    """A small model of the framework, and what to ask it."""

    artifact: Path | str
    inputs: Tensors
    """At least three rows, if the model is batched."""
    expected: Tensors
    poison: Tensors
    """Inputs that fit the signature and make the model fail."""
    bad: dict[str, Path | str]
    """Name -> artifact that may not load."""
    options: LoadOptions = LoadOptions(threads=2)
    rtol: float = 1e-5
    atol: float = 1e-6


class RuntimeConformance:
    """Every guarantee of the two ports, as tests. A subclass gives `runtime` and a fixture `case`."""

    runtime: Runtime

    @pytest.fixture
    def model(self, case: RuntimeCase) -> Iterator[Model]:
        """The case's model, loaded and closed again."""
        model = self.runtime.load(case.artifact, case.options)
        yield model
        model.close()

    def test_the_signature_is_complete(self, model: Model, case: RuntimeCase) -> None:
        """It names every tensor of the example, in known datatypes, and admits the example."""
        assert [spec.name for spec in model.signature.inputs] == list(case.inputs)
        assert [spec.name for spec in model.signature.outputs] == list(case.expected)
        assert all(spec.datatype in DATATYPES for spec in model.signature.inputs + model.signature.outputs)
        rows = model.signature.check(case.inputs)
        assert rows >= 3 or not model.signature.batched
        assert model.platform
        assert model.lanes >= 0
        assert isinstance(model.inline, bool)

    def test_the_answers_are_right(self, model: Model, case: RuntimeCase) -> None:
        """Every output, and nothing else, with the datatype, shape and values that belong to it."""
        outputs = model.predict(case.inputs)
        assert list(outputs) == list(case.expected)
        for spec in model.signature.outputs:
            assert outputs[spec.name].dtype == DATATYPES[spec.datatype]
            assert spec.admits(outputs[spec.name].shape)
        _assert_equal(outputs, case.expected, case)

    def test_the_inputs_stay_as_they_were(self, model: Model, case: RuntimeCase) -> None:
        """A call may also be given arrays that cannot be written to: they are views of a request's bytes."""
        inputs = {name: array.copy() for name, array in case.inputs.items()}
        for array in inputs.values():
            array.flags.writeable = False
        model.predict(inputs)
        for name, array in inputs.items():
            assert array.tolist() == case.inputs[name].tolist()

    def test_each_answer_is_fresh(self, model: Model, case: RuntimeCase) -> None:
        """An answer does not change when another call is made, nor does it share memory with its inputs."""
        first = model.predict(case.inputs)
        kept = {name: array.copy() for name, array in first.items()}
        changed = {name: np.roll(array, 1, axis=0) for name, array in case.inputs.items()}
        second = model.predict(changed)
        for name, array in first.items():
            assert array.tolist() == kept[name].tolist()
            assert not np.shares_memory(array, second[name])
            assert not any(np.shares_memory(array, source) for source in case.inputs.values())

    def test_a_wide_call_answers_the_same(self, model: Model, case: RuntimeCase) -> None:
        """Spreading over cores may change the last digits, nothing else."""
        _assert_equal(model.predict(case.inputs, threads=2), model.predict(case.inputs), case)

    def test_rows_do_not_depend_on_each_other(self, model: Model, case: RuntimeCase) -> None:
        """A batch of n answers what n single calls answer."""
        if not model.signature.batched:
            pytest.skip("the model is not batched")
        together = model.predict(case.inputs)
        for row in range(model.signature.check(case.inputs)):
            alone = model.predict({name: array[row : row + 1] for name, array in case.inputs.items()})
            _assert_equal(alone, {name: array[row : row + 1] for name, array in together.items()}, case)

    def test_calls_at_once(self, model: Model, case: RuntimeCase) -> None:
        """As many threads as there are lanes, each with rows of its own, get their own answers."""
        calls = [lambda: self._own_answers(model, case) for _ in range(model.lanes or 4)]
        assert _at_once(calls) == []

    def _own_answers(self, model: Model, case: RuntimeCase) -> None:
        for turn in range(20):
            shift = turn % 3 if model.signature.batched else 0
            outputs = model.predict({name: np.roll(array, shift, axis=0) for name, array in case.inputs.items()})
            _assert_equal(outputs, {n: np.roll(array, shift, axis=0) for n, array in case.expected.items()}, case)

    def test_a_failure_is_a_model_error_and_passes(self, model: Model, case: RuntimeCase) -> None:
        """An input that the model cannot compute fails alone; the next call is answered."""
        model.signature.check(case.poison)
        for _ in range(2):
            with pytest.raises((ModelError, InvalidInput)) as raised:
                model.predict(case.poison)
            assert str(raised.value)
            _assert_equal(model.predict(case.inputs), case.expected, case)

    def test_bad_artifacts_are_refused_with_a_reason(self, case: RuntimeCase) -> None:
        """Each raises BundleError, says something, and does not say it twice."""
        assert case.bad
        for name, artifact in case.bad.items():
            with pytest.raises(BundleError) as raised:
                self.runtime.load(artifact, case.options).close()
            assert len(str(raised.value)) > 20, name

    def test_it_recognises_its_own(self, case: RuntimeCase, tmp_path: Path) -> None:
        """The artifact, and neither text nor a pickle nor a folder of them."""
        assert self.runtime.recognises(Path(case.artifact))
        others = tmp_path / "others"
        others.mkdir()
        (others / "notes.txt").write_text("a model of good manners")
        (others / "model.pkl").write_bytes(b"\x80\x04}\x94.")
        (others / "empty").write_bytes(b"")
        for path in (others, *others.iterdir(), others / "missing"):
            assert not self.runtime.recognises(path), path

    def test_close_may_be_repeated(self, case: RuntimeCase) -> None:
        """And a call afterwards is an error of this model, not of the server."""
        model = self.runtime.load(case.artifact, case.options)
        model.predict(case.inputs)
        model.close()
        model.close()
        with pytest.raises(ModelError):
            model.predict(case.inputs)

    def test_it_loads_again_and_again(self, model: Model, case: RuntimeCase) -> None:
        """Closing gives everything back: the tenth copy answers like the first, or the second where it is a process."""
        for _ in range(10 if model.inline else 2):
            model = self.runtime.load(case.artifact, case.options)
            _assert_equal(model.predict(case.inputs), case.expected, case)
            model.close()


def _at_once(calls: list[Callable[[], Any]]) -> list[BaseException]:
    """Run each in a thread, all starting together, and return what they raised."""
    barrier = threading.Barrier(len(calls))
    raised: list[BaseException] = []

    def run(call: Callable[[], Any]) -> None:
        try:
            barrier.wait(10)
            call()
        except BaseException as error:  # noqa: BLE001 - the test's thread reports it
            raised.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return raised


def _assert_equal(outputs: Tensors, expected: Tensors, case: RuntimeCase) -> None:
    assert list(outputs) == list(expected)
    for name, array in expected.items():
        if array.dtype.kind == "O":
            assert outputs[name].tolist() == array.tolist()
        else:
            np.testing.assert_allclose(outputs[name], array, rtol=case.rtol, atol=case.atol)
