import pytest

from rung.domain.errors import InvalidInput
from rung.domain.graphs import signature_of, waves
from rung.domain.models import Graph, Node
from rung.domain.tensors import Signature, TensorSpec


def spec(name: str, size: int = 4, datatype: str = "FP32") -> TensorSpec:
    return TensorSpec(name, datatype, (-1, size))


MODELS = {
    "scale": Signature((spec("x"),), (spec("y"),)),
    "embed": Signature((spec("x"),), (spec("vector", 8),)),
    "rank": Signature((spec("vector", 8), spec("context", 2)), (spec("score", 1),)),
    "whole": Signature((spec("x", datatype="INT64"),), (spec("y", datatype="INT64"),)),
    "other": Signature((spec("x"),), (spec("z"),)),
}


def of(kind: str, *nodes: Node, **more: object) -> Signature:
    return signature_of(Graph(kind, nodes, **more), lambda node: MODELS[node.model])


def names(specs: tuple[TensorSpec, ...]) -> list[str]:
    return [one.name for one in specs]


def test_a_sequence_takes_what_nobody_in_it_makes_and_gives_what_nobody_in_it_takes():
    signature = of("sequence", Node("rank", inputs={"context": "user"}), Node("embed"))
    assert names(signature.inputs) == ["user", "x"]
    assert names(signature.outputs) == ["score"]
    assert of("sequence", Node("embed"), Node("rank"), outputs=("vector", "score")).outputs[0] == spec("vector", 8)


def test_models_that_do_not_wait_for_each_other_run_side_by_side():
    assert waves([{"x"}, {"a", "b"}, {"x"}], [{"a"}, {"c"}, {"b"}]) == [[0, 2], [1]]


def test_an_ensemble_averages_outputs_of_equal_names():
    signature = of("ensemble", Node("scale"), Node("other", outputs={"z": "y"}))
    assert (names(signature.inputs), names(signature.outputs)) == (["x"], ["y"])


def test_a_switch_adds_the_input_that_picks():
    signature = of("switch", Node("scale", case=("a",)), Node("other", outputs={"z": "y"}), on="kind")
    assert signature.inputs == (spec("x"), TensorSpec("kind", "BYTES", (-1, 1)))


@pytest.mark.parametrize(
    ("kind", "nodes", "more", "words"),
    [
        ("sequence", (), {}, "one model at least"),
        ("sequence", (Node("scale", outputs={"y": "x2"}), Node("whole", inputs={"x": "x2"})), {}, "takes 'x' as INT64"),
        ("sequence", (Node("scale"), Node("rank", inputs={"vector": "y"})), {}, "FP32"),
        ("sequence", (Node("scale", inputs={"x": "y"}),), {}, "circle"),
        ("sequence", (Node("scale"), Node("scale")), {}, "two models make the value 'y'"),
        ("sequence", (Node("scale", inputs={"nope": "x"}),), {}, "no input 'nope'"),
        ("sequence", (Node("scale"),), {"outputs": ("lost",)}, "makes the output 'lost'"),
        ("ensemble", (Node("scale"), Node("other")), {}, "other gives"),
        ("ensemble", (Node("whole"), Node("whole")), {}, "floats"),
        ("switch", (Node("scale"),), {}, "needs `on`"),
        ("switch", (Node("scale"), Node("scale")), {"on": "kind"}, "one model"),
        ("switch", (Node("scale", case=("a",)), Node("scale", case=("a",))), {"on": "kind"}, "one model"),
        ("switch", (Node("scale"),), {"on": "x"}, "FP32"),
    ],
)
def test_models_that_do_not_fit_together_are_refused_by_name(kind, nodes, more, words):
    with pytest.raises(InvalidInput, match=words):
        of(kind, *nodes, **more)
