"""`rung compress`."""

from typing import Annotated, Literal

import typer

from rung.cli.declared.options import AsJson, Model, Repository

__all__ = ["add"]


def add(app: typer.Typer) -> None:
    """Declare the command."""
    app.command("compress")(compress)


def compress(
    model: Model,
    version: Annotated[int | None, typer.Argument(help="Number of the version.  [the latest]")] = None,
    freeze: Annotated[
        bool, typer.Option("--freeze", help="Fold constants and take out what only training needs.")
    ] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Weights of one byte.")] = False,
    int8_mode: Annotated[
        Literal["dynamic", "static"],
        typer.Option(help="Whether activations are measured at each call, or before, on rows of the training split."),
    ] = "static",
    prune: Annotated[float, typer.Option(metavar="SHARE", help="Remove this share of the channels and neurons.")] = 0.0,
    sparse: Annotated[
        float, typer.Option(metavar="SHARE", help="Set this share of the weights to zero; it saves no time by itself.")
    ] = 0.0,
    budget: Annotated[
        str, typer.Option(metavar="SIZE", help="Try the steps, least harm first, until the model fits, such as 1MB.")
    ] = "",
    max_drop: Annotated[
        float, typer.Option(help="Largest drop of the metric: points of a share, or a share of an error.")
    ] = 0.01,
    source: Annotated[str, typer.Option(metavar="URL", help="Judge on all rows of this source instead.")] = "",
    repository: Repository = "",
    as_json: AsJson = False,
) -> None:
    """Make a smaller or faster version of an ONNX model; registered when its metric is shown to hold."""
    from rung.cli.compress import run
    from rung.settings.cache import parse_size
    from rung.training.compress.plans import Wanted

    mode, size = int8_mode if int8 else None, parse_size(budget) if budget else 0
    wanted = Wanted(freeze, mode, prune, sparse, size, max_drop, source)
    run(model, version, wanted, repository, as_json=as_json)
