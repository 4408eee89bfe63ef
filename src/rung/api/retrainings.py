"""Training anew: what was decided, and asking for it by hand."""

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from rung.api.answers import answer, described
from rung.api.models import ModelName
from rung.api.roles import Caller, name_of, needs
from rung.api.services import Needed
from rung.domain.names import check_name
from rung.domain.retraining import Retraining

__all__ = ["router"]

router = APIRouter(tags=["retrainings"])


class RetrainRequest(BaseModel):
    """Who asks for a retraining, and why."""

    model_config = ConfigDict(extra="forbid")

    by: str = Field("api", min_length=1, max_length=200, description="Who asks.", examples=["ana"])
    reason: str = Field("", max_length=2000, description="Why, for whoever looks at it later.")


@router.get(
    "/models/{model}/retrainings",
    responses=described(list[Retraining], "Retrainings, oldest first."),
    openapi_extra=needs("viewer"),
)
def list_retrainings(model: ModelName, services: Needed) -> Response:
    """Every retraining of a model, with its decisions."""
    return answer(services.retrainings(check_name(model)))


@router.post(
    "/models/{model}/retrainings",
    responses=described(Retraining, "The retraining that was begun."),
    openapi_extra=needs("deployer"),
)
def retrain(model: ModelName, request: RetrainRequest, services: Needed, caller: Caller) -> Response:
    """Train a model anew on what its users sent, and release what comes out if it passes the gate."""
    return answer(services.retrainer.ask(check_name(model), name_of(caller, request.by), request.reason))
