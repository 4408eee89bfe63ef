"""From what was loaded to what answers: lanes, batcher, joined requests, cache and log, put round one version."""

from collections.abc import Callable

import msgspec

from rung.domain.models import AspiredVersion
from rung.domain.records import ShadowRecord
from rung.ports import LoadOptions, Served
from rung.serving.batcher import Batcher
from rung.serving.cache import Cached
from rung.serving.coalesce import Coalescer
from rung.serving.graphs import GraphPredictor
from rung.serving.idle import Idle
from rung.serving.lanes import Lanes
from rung.serving.loader import Loaded
from rung.serving.policies import Policy
from rung.serving.servable import Servable, Wrap
from rung.serving.transforming import TransformPool

__all__ = ["Assembly", "ManagerOptions"]


class ManagerOptions(msgspec.Struct, frozen=True):
    """How models are loaded and run."""

    policy: Policy = Policy()
    load: LoadOptions = LoadOptions()
    lanes: int = 1
    objective: float = 0.0
    max_wait: float = 5.0
    coalesce: bool = False
    poll_seconds: float = 0.5
    forcing: bool = False
    """Whether a request may pick its arm by the header `rung-arm`."""
    cache: Wrap | None = None
    """Puts a cache round what computes; None where nothing is remembered."""
    log: Wrap | None = None
    """Puts the prediction log round everything; None where answers are not logged."""
    report: Callable[[ShadowRecord], object] | None = None
    """Takes what comparing a candidate's answers with the live ones found."""
    empty_seconds: float = 5.0
    """How long a source that offered versions has to offer none until they are unloaded."""


class Assembly:
    """Makes what answers; all that it makes shares threads for transforms, and knows of the others' requests."""

    def __init__(self, options: ManagerOptions) -> None:
        self._options = options
        self._idle = Idle()
        self._pool = TransformPool(max(options.lanes, 1))

    def make(
        self, version: AspiredVersion, loaded: Loaded, find: Callable[[str, int | None], Served]
    ) -> tuple[Servable, Lanes | None]:
        """A version that answers, and the lanes that it computes on; None for a graph, whose steps have theirs.

        Call from the event loop. `find` gives the models of a graph.
        """
        options, model = self._options, loaded.model
        if model is None:
            assert loaded.manifest.graph is not None
            graph = GraphPredictor(version.name, version.version, loaded.manifest.graph, find)
            servable = Servable(loaded.manifest, version.digest, None, graph, loaded.pipeline, self._pool)
            return self._composed(servable), None
        lanes = Lanes(model.lanes or options.lanes, f"rung-{version.name}-{version.version}")
        # A spread call that is hardly faster than a narrow one only takes cores from others.
        threads = options.load.threads if 0.0 < loaded.cost.wide < 0.9 * loaded.cost.estimate(1) else 1
        batcher = Batcher(
            version.name,
            version.version,
            model,
            loaded.cost,
            lanes,
            threads=threads,
            max_wait=options.max_wait,
            idle=self._idle,
        )
        if not batcher.inline:
            lanes.open()
        servable = Servable(loaded.manifest, version.digest, model, batcher, loaded.pipeline, self._pool)
        # Where a call costs less than a thread hop, it costs less than the comparison too.
        if options.coalesce and not batcher.inline:
            servable.coalescer = Coalescer(batcher, batcher)
            servable.base = servable.coalescer
        if options.cache is not None:
            servable.base = options.cache(servable, servable.base)
        servable.knows = isinstance(servable.base, Cached) or servable.coalescer is not None
        return self._composed(servable), lanes

    def _composed(self, servable: Servable) -> Servable:
        servable.log = self._options.log
        servable.compose()
        return servable

    def close(self) -> None:
        """End the threads; wait for what they do."""
        self._pool.close()
