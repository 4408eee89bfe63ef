"""MLflow: a model folder, or `models:/name/3` and `models:/name@alias` in a registry."""

import os
import re
from pathlib import Path
from typing import Any

from rung.catalog.importers.plan import Found, Plan, named
from rung.domain.errors import BundleError, ConfigurationError, MissingDependency, NotFound
from rung.runtimes.mlflow import find_flavor, read_mlmodel

__all__ = ["is_mlflow_folder", "is_mlflow_url", "plan_mlflow", "plan_mlflow_url"]

_URL = re.compile(r"models:/([^/@]+)(?:/(\d+)|@([^/@]+))")
_REASONS = {
    "params": "parameters of a call have no counterpart in rung",
}


def is_mlflow_folder(path: Path) -> bool:
    """Whether a folder is an MLflow model."""
    return (path / "MLmodel").is_file()


def is_mlflow_url(source: str) -> bool:
    """Whether the source is in an MLflow model registry."""
    return source.startswith("models:")


def plan_mlflow(folder: Path, name: str = "", source: str = "", version: int = 0) -> Plan:
    """The one model of a folder. Raises `BundleError` where `MLmodel` cannot be read."""
    plan = Plan(f"an MLflow model, {source or folder.name}")
    title = name or folder.resolve().name
    declared = read_mlmodel(folder)
    try:
        flavor, _, _ = find_flavor(folder, declared)
    except BundleError as error:
        plan.leave(title, str(error))
        return plan
    for other in declared["flavors"].keys() - {flavor}:
        plan.leave(f"{title}: flavor {other}", f"the {flavor} flavor is served; the others are other ways to load it")
    signature = declared.get("signature")
    if isinstance(signature, dict) and signature.get("params"):
        plan.leave(f"{title}: params", _REASONS["params"])
    plan.found.append(Found(named(plan, title), folder, source or folder.name, version))
    return plan


def plan_mlflow_url(url: str, scratch: Path) -> Plan:
    """Download a registered version with MLflow's own client (`MLFLOW_TRACKING_URI` says from where).

    Raises:
        ConfigurationError: the URL is no such URL.
        NotFound: the registry has no such version, or does not answer.
        MissingDependency: mlflow is not installed.
    """
    match = _URL.fullmatch(url)
    if match is None:
        raise ConfigurationError(f"{url!r} names no version: write models:/NAME/3 or models:/NAME@ALIAS")
    name, number, alias = match.groups()
    # Set before the import: the client would report its use otherwise.
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "true"
    try:
        from mlflow.artifacts import download_artifacts
        from mlflow.tracking import MlflowClient
    except ImportError:
        raise MissingDependency(f'{url} needs MLflow\'s client: pip install "rung[mlflow-registry]"') from None
    try:
        client: Any = MlflowClient()
        version = int(number or client.get_model_version_by_alias(name, alias).version)
        folder = Path(download_artifacts(artifact_uri=f"models:/{name}/{version}", dst_path=str(scratch)))
    except Exception as error:  # noqa: BLE001 - the client raises whatever its store and its network do
        reason = " ".join(str(error).split())[:300]
        raise NotFound(f"{url} cannot be had from the registry that MLFLOW_TRACKING_URI names: {reason}") from None
    return plan_mlflow(folder, name, url, version)
