"""Answers to data sets that were scored: asked by key, with the answer of the group where the key has none."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Response

from rung.api.answers import answer, described
from rung.api.models import ModelName
from rung.api.roles import needs
from rung.api.services import Needed
from rung.domain.names import check_name
from rung.offline.scoring.scores import Found, How, RunOf

__all__ = ["ScoresShown", "router"]

router = APIRouter(tags=["scores"])

_Value = Annotated[str, Query(max_length=500)]


class ScoresShown(msgspec.Struct, frozen=True):
    """What there is to be asked for."""

    runs: list[RunOf]
    """Days and versions, the newest first."""
    lookups: dict[How, int]
    """Look-ups since the control plane started, by what came of them: the key's `own` answer, a `stale` one, that of
    its `group`, or none (`missing`)."""


@router.get(
    "/models/{model}/scores",
    responses=described(Found, "The answer, and what it rests on."),
    openapi_extra=needs("viewer"),
)
def find_score(
    model: ModelName,
    services: Needed,
    key: Annotated[
        list[_Value],
        Query(min_length=1, max_length=20, description="A value for each column of the key, in its order."),
    ],
    group: Annotated[
        list[_Value],
        Query(max_length=20, description="A value for each column of the group, for a key that nothing is known of."),
    ] = [],  # noqa: B006 - FastAPI copies it
    as_of: Annotated[str, Query(description="No day after this, as 2026-01-31.", max_length=10)] = "",
    max_age_seconds: Annotated[
        float, Query(ge=0, le=1e10, allow_inf_nan=False, description="Older answers are passed over for the group's.")
    ] = 0.0,
) -> Response:
    """The newest answer to a key, or that of its group, marked as `fallback`, with its age."""
    found = services.scores.find(check_name(model), key, group=group, as_of=as_of, max_age=max_age_seconds)
    return answer(found)


@router.get(
    "/models/{model}/scores/runs",
    responses=described(ScoresShown, "Days, versions and counts."),
    openapi_extra=needs("viewer"),
)
def list_scores(model: ModelName, services: Needed) -> Response:
    """Which days and versions there are answers of, and how often they were asked for."""
    check_name(model)
    return answer(ScoresShown(services.scores.runs(model), services.scores.counts(model)))
