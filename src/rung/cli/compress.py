"""Body of `rung compress`."""

import logging
import sys
from pathlib import Path

from rung.catalog import models
from rung.cli.printing import print_json
from rung.settings.file import project_here
from rung.store.blobs import open_store
from rung.telemetry import configure_logs
from rung.training.compress.plans import Wanted
from rung.training.compress.report import table_of
from rung.training.compress.run import compress

__all__ = ["run"]


def run(name: str, version: int | None, wanted: Wanted, repository: str, *, as_json: bool) -> None:
    """Compress a version and print what became of it; exit code 1 where nothing was registered.

    Raises:
        as `rung.training.compress.compress`.
    """
    configure_logs(level="warning")
    store = open_store(repository)
    number = models.show(store, name, version).version
    # onnxruntime's tools say on the root logger what is being done about already.
    logging.getLogger().setLevel(logging.ERROR)

    def say(text: str) -> None:
        if not as_json:
            print(text, file=sys.stderr, flush=True)

    outcome = compress(store, name, number, wanted, settings=project_here(), folder=Path(), say=say)
    if as_json:
        print_json(outcome)
    else:
        for line in outcome.tried if len(outcome.tried) > 1 or outcome.registered else ():
            print(f"not taken: {line}")
        if outcome.report is not None:
            print("\n".join(table_of(outcome.report)))
        print(outcome.why if outcome.registered else f"refused: {outcome.why}")
    if not outcome.registered:
        sys.exit(1)
