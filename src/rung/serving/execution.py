"""One call for several requests: put together, computed, taken apart, and halved when a row poisons it.

Runs on a lane or, for very cheap models, on the event loop. Touches nothing but its arguments.
"""

from collections.abc import Sequence
from time import monotonic

import numpy as np

from rung.domain.errors import InvalidInput, ModelError, RungError, WorkerDied
from rung.domain.tensors import Tensors
from rung.ports import Model
from rung.serving.ticket import Ticket

__all__ = ["Outcome", "execute", "execute_apart"]

Outcome = Tensors | Exception


def execute(model: Model, batch: Sequence[Ticket], sole: str | None, threads: int = 1) -> tuple[list[Outcome], float]:
    """Compute a batch of tickets.

    Args:
        model: what computes.
        batch: tickets whose requests have equal shapes but for their rows.
        sole: the input's name, if there is just one.
        threads: cores to spread over.

    Returns:
        One outcome per ticket, in order, and the seconds of the model call (0 if it failed).
    """
    if len(batch) == 1:
        inputs = batch[0].request.inputs
    elif sole is not None:
        inputs = {sole: np.concatenate([ticket.request.inputs[sole] for ticket in batch])}
    else:
        names = batch[0].request.inputs
        inputs = {name: np.concatenate([ticket.request.inputs[name] for ticket in batch]) for name in names}
    started = monotonic()
    try:
        outputs = model.predict(inputs, threads)
    except WorkerDied:
        return _each_again(model, batch), 0.0
    except (ModelError, InvalidInput) as error:
        if len(batch) == 1:
            return [error], 0.0
        half = len(batch) // 2
        left, _ = execute(model, batch[:half], sole, threads)
        right, _ = execute(model, batch[half:], sole, threads)
        return left + right, 0.0
    except RungError as error:
        return [error] * len(batch), 0.0
    return _share(outputs, batch), monotonic() - started


def execute_apart(model: Model, batch: Sequence[Ticket], sole: str | None, threads: int) -> tuple[list[Outcome], float]:
    """`execute` for a lane, where whoever left while the batch was handed over is left out."""
    if any(ticket.settled for ticket in batch):
        alive = [ticket for ticket in batch if not ticket.settled]
        if not alive:
            return [ModelError("nobody waits for this any more")] * len(batch), 0.0
        outcomes, _ = execute(model, alive, sole, threads)
        by_ticket = dict(zip(map(id, alive), outcomes, strict=True))
        gone = ModelError("nobody waits for this any more")
        return [by_ticket.get(id(ticket), gone) for ticket in batch], 0.0
    return execute(model, batch, sole, threads)


def _each_again(model: Model, batch: Sequence[Ticket]) -> list[Outcome]:
    """The process died under this batch: each request gets one more try, alone, so that only the guilty fail."""
    outcomes: list[Outcome] = []
    for ticket in batch:
        try:
            outcomes.extend(_share(model.predict(ticket.request.inputs), [ticket]))
        except RungError as error:
            outcomes.append(error)
    return outcomes


def _share(outputs: Tensors, batch: Sequence[Ticket]) -> list[Outcome]:
    if len(batch) == 1:
        return [_wanted(outputs, batch[0].request.outputs)]
    shares: list[Outcome] = []
    start = 0
    sole = next(iter(outputs.items())) if len(outputs) == 1 else None
    for ticket in batch:
        request = ticket.request
        stop = start + request.rows
        if sole is not None:
            shares.append({sole[0]: sole[1][start:stop]})
        else:
            shares.append(_wanted({name: array[start:stop] for name, array in outputs.items()}, request.outputs))
        start = stop
    return shares


def _wanted(outputs: Tensors, names: tuple[str, ...]) -> Tensors:
    return {name: outputs[name] for name in names} if names else outputs
