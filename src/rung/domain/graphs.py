"""Rules for graphs of models: what they take and give, worked out from the models in them. Pure."""

from collections.abc import Callable, Iterable, Mapping

import msgspec

from rung.domain.errors import InvalidInput
from rung.domain.models import Graph, Node
from rung.domain.tensors import Signature, TensorSpec

__all__ = ["given", "signature_of", "taken", "waves"]


def taken(node: Node, signature: Signature) -> dict[str, str]:
    """Input of the model -> name of the value that goes in."""
    return {spec.name: node.inputs.get(spec.name, spec.name) for spec in signature.inputs}


def given(node: Node, signature: Signature) -> dict[str, str]:
    """Output of the model -> name of the value that comes out."""
    return {spec.name: node.outputs.get(spec.name, spec.name) for spec in signature.outputs}


def waves(needs: list[set[str]], makes: list[set[str]]) -> list[list[int]]:
    """Order the nodes of a sequence: each list holds those that can run side by side.

    Raises:
        InvalidInput: nodes wait for each other in a circle, or two make the same value.
    """
    made = [value for values in makes for value in values]
    twice = sorted({value for value in made if made.count(value) > 1})
    if twice:
        raise InvalidInput(f"two models make the value {twice[0]!r}: give one of them another name in `outputs`")
    pending, order = set(range(len(needs))), []
    known: set[str] = set()
    while pending:
        wave = sorted(at for at in pending if not (needs[at] & set(made)) - known)
        if not wave:
            raise InvalidInput("the models of the sequence wait for each other in a circle")
        order.append(wave)
        pending -= set(wave)
        known |= {value for at in wave for value in makes[at]}
    return order


def signature_of(graph: Graph, find: Callable[[Node], Signature]) -> Signature:
    """What the graph takes and gives.

    Raises:
        InvalidInput: its models do not fit together; the message names the model and the value.
    """
    if not graph.nodes:
        raise InvalidInput("a graph needs one model at least", field="nodes")
    signatures = [find(node) for node in graph.nodes]
    for node, signature in zip(graph.nodes, signatures, strict=True):
        _refuse_unknown(node, signature)
    inputs: dict[str, TensorSpec] = {}
    values: dict[str, TensorSpec] = {}
    used: set[str] = set()
    makes = [set(given(node, one).values()) for node, one in zip(graph.nodes, signatures, strict=True)]
    if graph.kind == "sequence":
        waves([set(taken(node, one).values()) for node, one in zip(graph.nodes, signatures, strict=True)], makes)
        for node, signature in zip(graph.nodes, signatures, strict=True):
            _add(values, node, signature.outputs, given(node, signature))
    for node, signature in zip(graph.nodes, signatures, strict=True):
        needs = taken(node, signature)
        used |= set(needs.values())
        outside = {name: value for name, value in needs.items() if value not in values or graph.kind != "sequence"}
        for spec in signature.inputs:
            if spec.name not in outside:
                _check_fit(node, spec, values[needs[spec.name]])
        _add(inputs, node, [spec for spec in signature.inputs if spec.name in outside], outside)
    if graph.kind == "switch":
        _check_switch(graph, inputs)
    if graph.kind != "sequence":
        values = _common_outputs(graph, signatures)
    wanted = graph.outputs or tuple(name for name in values if name not in used or graph.kind != "sequence")
    missing = [name for name in wanted if name not in values]
    if missing:
        raise InvalidInput(f"no model of the graph makes the output {missing[0]!r}", field="outputs")
    batched = all(signature.batched for signature in signatures)
    if graph.kind == "switch" and not batched:
        raise InvalidInput("a switch picks a model row by row, so all its models must take rows")
    return Signature(tuple(inputs.values()), tuple(values[name] for name in wanted), batched)


def _refuse_unknown(node: Node, signature: Signature) -> None:
    for side, specs in (("inputs", signature.inputs), ("outputs", signature.outputs)):
        names = [spec.name for spec in specs]
        for name in getattr(node, side):
            if name not in names:
                raise InvalidInput(f"{node.model} has no {side[:-1]} {name!r}; it has {names}", field=side)


def _add(
    table: dict[str, TensorSpec],
    node: Node,
    specs: Iterable[TensorSpec],
    names: Mapping[str, str],
) -> None:
    for spec in specs:
        named = msgspec.structs.replace(spec, name=names[spec.name])
        known = table.get(named.name)
        if known is None:
            table[named.name] = named
        elif known.datatype != named.datatype or not known.admits(tuple(max(size, 1) for size in named.shape)):
            _check_fit(node, spec, known)


def _check_fit(node: Node, spec: TensorSpec, value: TensorSpec) -> None:
    fits = spec.datatype == value.datatype and len(spec.shape) == len(value.shape)
    if not fits or any(-1 not in pair and pair[0] != pair[1] for pair in zip(spec.shape, value.shape, strict=True)):
        raise InvalidInput(
            f"{node.model} takes {spec.name!r} as {spec.datatype} {list(spec.shape)}, "
            f"the value {value.name!r} is {value.datatype} {list(value.shape)}",
            field=value.name,
        )


def _check_switch(graph: Graph, inputs: dict[str, TensorSpec]) -> None:
    if not graph.on:
        raise InvalidInput("a switch needs `on`, the input whose value picks the model", field="on")
    known = inputs.get(graph.on)
    if known is None:
        inputs[graph.on] = TensorSpec(graph.on, "BYTES", (-1, 1))
    elif known.datatype not in ("BYTES", "INT32", "INT64", "BOOL"):
        raise InvalidInput(f"a switch picks by text or whole numbers, {graph.on!r} is {known.datatype}", field="on")
    cases = [case for node in graph.nodes for case in node.case]
    if len(set(cases)) != len(cases) or sum(not node.case for node in graph.nodes) > 1:
        raise InvalidInput("a switch must lead each value to one model", field="case")


def _common_outputs(graph: Graph, signatures: list[Signature]) -> dict[str, TensorSpec]:
    tables: list[dict[str, TensorSpec]] = []
    for node, signature in zip(graph.nodes, signatures, strict=True):
        table: dict[str, TensorSpec] = {}
        _add(table, node, signature.outputs, given(node, signature))
        tables.append(table)
    first = tables[0]
    for node, table in zip(graph.nodes[1:], tables[1:], strict=True):
        if table.keys() != first.keys():
            raise InvalidInput(f"{node.model} gives {sorted(table)}, {graph.nodes[0].model} gives {sorted(first)}")
        for name, spec in table.items():
            _check_fit(node, spec, first[name])
    if graph.kind == "ensemble" and any(not spec.datatype.startswith("FP") for spec in first.values()):
        raise InvalidInput("an ensemble averages numbers: all outputs must be floats")
    return first
