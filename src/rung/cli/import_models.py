"""`rung models import`: another server's models, with a line for everything that came along or did not."""

import msgspec
import orjson

from rung.catalog.imports import import_models
from rung.domain.errors import OperatorError
from rung.store.blobs import open_store
from rung.telemetry import configure_logs

__all__ = ["run"]


def run(source: str, repository: str, name: str | None, *, trust: bool, as_json: bool) -> None:
    """Import, and print a line per model and per thing left behind.

    Raises:
        OperatorError: nothing could be imported.
    """
    configure_logs(level="warning")
    report = import_models(open_store(repository), source, name=name or "", trust=trust)
    if as_json:
        print(orjson.dumps(msgspec.to_builtins(report), option=orjson.OPT_INDENT_2).decode())
    else:
        print(f"{source} is {report.kind}")
        for each in report.imported:
            print(f"imported {each.name} version {each.version} ({each.runtime}) from {each.source}")
        for left in report.left:
            print(f"not carried over: {left.what}: {left.reason}")
    if not report.imported:
        raise OperatorError(f"nothing of {source} could be imported; the reasons are above")
    if not as_json:
        print(f"serve them with `rung serve {repository}`")
