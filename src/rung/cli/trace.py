"""Body of `rung trace`."""

from datetime import UTC, datetime
from typing import Any

from rung.cli.places import Places
from rung.cli.printing import print_json
from rung.data.trace import Trail
from rung.data.trace import trace as gather
from rung.domain.errors import NotFound
from rung.domain.records import CONSTANT, NOT_FINITE
from rung.store.blobs import open_store

__all__ = ["trace"]


def trace(where: Places, prediction: str, models: list[str], *, as_json: bool) -> None:
    """Print the trail of a prediction.

    Raises:
        NotFound: the text is no prediction id.
    """
    keyring = where.keyring()
    trail = gather(
        prediction,
        keyring=keyring,
        models={*where.models(), *models},
        store=where.store(),
        log=where.log,
        repository=open_store(where.repository),
    )
    if as_json:
        print_json(_plain(trail))
        return
    _print_identity(trail, has_key=keyring is not None)
    _print_prediction(trail)
    _print_release(trail)
    for row in trail.shadows:
        verdict = row["error"] or ("equal" if row["equal"] else f"differs by up to {row['difference']:g}")
        print(f"shadow      version {row['candidate']}: {verdict}, computed in {_ms(row['computed'])}")
    _print_feedback(trail)
    if trail.prediction is None and not trail.verified:
        raise NotFound("no record has this id, and its tag is not this project's")


def _print_identity(trail: Trail, *, has_key: bool) -> None:
    identity = trail.identity
    print(f"id          {trail.id}")
    tag = "verified" if trail.verified else "NOT verified: " + ("it was not minted here" if has_key else "no key here")
    print(f"minted      {_when(identity.time)}  version {identity.version}, arm {identity.arm or '-'}, "
          f"epoch {identity.epoch or '-'} ({tag})")  # fmt: skip
    if identity.model:
        print(f"model       {identity.model}")


def _print_prediction(trail: Trail) -> None:
    row = trail.prediction
    if row is None:
        print("prediction  no record: it was not in the sample, is older than what is kept, erased, or was lost")
        for gap in trail.gaps:
            print(f"    {_when(gap['time'])}  {gap['kind']}: {gap['count'] or ''} {gap['reason']}".rstrip())
        return
    outcome = f"{row['error']} ({row['blame']})" if row["error"] else "answered"
    print(f"prediction  {outcome}, unit {row['unit'] or '-'}, rows {row['rows']}, propensity {row['propensity']:g}")
    rest = max(0.0, row["total"] - row["queued"] - row["computed"])
    print(f"timing      queued {_ms(row['queued'])}, computed {_ms(row['computed'])}, rest {_ms(rest)}, "
          f"total {_ms(row['total'])}")  # fmt: skip
    for output in row["output_summary"]:
        print(f"output      {output['name']}: mean {output['mean']:g}, least {output['least']:g}, "
              f"greatest {output['greatest']:g}")  # fmt: skip
    flags = [text for bit, text in ((NOT_FINITE, "not finite"), (CONSTANT, "constant")) if row["flags"] & bit]
    if flags:
        print(f"flags       {', '.join(flags)}")
    kept = [name for name in ("inputs", "outputs", "body") if row[name] is not None]
    digests = [name for name in ("input_digest", "output_digest") if row[name]]
    print(f"kept        {', '.join([*kept, *digests]) or 'nothing of what was asked and answered'}; bytes of the "
          f"version: {row['digest'] or '-'}")  # fmt: skip


def _print_release(trail: Trail) -> None:
    one = trail.release
    if one is None:
        none = "none: the latest version answered" if not trail.identity.epoch else "not in this repository"
        print(f"release     {none}")
        return
    arms = ", ".join(f"{arm.name} v{arm.version}" for arm in one.arms)
    why = f"{one.move.kind} by {one.move.by} ({one.move.rule})"
    print(f"release     epoch {one.epoch} since {one.at[:19]}Z, {why}: {arms}")


def _print_feedback(trail: Trail) -> None:
    if not trail.feedback:
        print("feedback    none yet")
    for row in trail.feedback:
        counts = "" if row["counts"] else "  (a later one counts)"
        value = row["value"] if len(row["value"]) <= 60 else f"{row['value'][:57]}..."
        print(f"feedback    {_when(row['time'])}  {row['kind']} {value} by {row['source'] or '-'}, "
              f"{row['delay']:.0f} s after{counts}")  # fmt: skip


def _plain(trail: Trail) -> dict[str, Any]:
    """The trail as JSON has it: bytes as hexadecimal text."""

    def plain(row: dict[str, Any]) -> dict[str, Any]:
        return {name: value.hex() if isinstance(value, bytes) else value for name, value in row.items()}

    return {
        "id": trail.id,
        "verified": trail.verified,
        "identity": trail.identity,
        "prediction": None if trail.prediction is None else plain(trail.prediction),
        "release": trail.release,
        "shadows": [plain(row) for row in trail.shadows],
        "feedback": trail.feedback,
        "gaps": trail.gaps,
    }


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(sep=" ", timespec="milliseconds")[:23] + "Z"
