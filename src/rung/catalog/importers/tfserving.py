"""TF Serving: the file that `--model_config_file` names."""

from pathlib import Path

from rung.catalog.importers.plan import Found, Plan, chosen_versions, named, version_folders
from rung.catalog.importers.textproto import Message, messages, one, parse_textproto
from rung.domain.errors import ConfigurationError

__all__ = ["is_model_config", "plan_tf_serving"]

_REASONS = {
    "version_labels": "a label is not a property of a version here; name the version in the request",
    "logging_config": "log sampling belongs to the server, not to a model",
    "platform_config_map": "platforms are told by the files themselves",
}


def is_model_config(path: Path) -> bool:
    """Whether a file reads like a model configuration of TF Serving."""
    if not path.is_file() or path.stat().st_size > 1 << 22:
        return False
    return b"model_config_list" in path.read_bytes() and path.name != "config.pbtxt"


def plan_tf_serving(path: Path) -> Plan:
    """What a configuration file lists. Base paths that are not here are looked for beside the file.

    Raises:
        ConfigurationError: it cannot be read, or lists nothing.
    """
    config = parse_textproto(path.read_text(errors="replace"), path.name)
    plan = Plan(f"a TF Serving configuration, {path.name}")
    for key in config.keys() - {"model_config_list"}:
        plan.leave(key, _REASONS.get(key, "it has no counterpart in rung"))
    entries = [entry for each in messages(config, "model_config_list") for entry in messages(each, "config")]
    if not entries:
        raise ConfigurationError(f"{path.name} lists no models in model_config_list {{ config {{ ... }} }}")
    for entry in entries:
        _plan_model(plan, path, entry)
    return plan


def _plan_model(plan: Plan, path: Path, entry: Message) -> None:
    name, base = one(entry, "name", ""), one(entry, "base_path", "")
    if not name or not base:
        plan.leave(name or "a model without a name", "it has no name or no base_path")
        return
    for key in entry.keys() - {"name", "base_path", "model_platform", "model_type", "model_version_policy"}:
        plan.leave(f"{name}: {key}", _REASONS.get(key, "it has no counterpart in rung"))
    folder = _folder(path.parent, base)
    numbers = version_folders(folder) if folder else {}
    if not numbers:
        plan.leave(name, _absent(base, folder))
        return
    policy = one(entry, "model_version_policy", {})
    chosen, listed = chosen_versions(numbers, policy), one(policy, "specific", {}).get("versions", [])
    for missing in [number for number in listed if number not in chosen]:
        plan.leave(f"{name}: version {missing}", f"there is no folder {base}/{missing}")
    if len(chosen) > 1:
        plan.leave(f"{name}: model_version_policy", "all its versions are taken; serve them with --keep all")
    registered = named(plan, name)
    plan.found.extend(Found(registered, numbers[n], f"{path.name}: {base}/{n}", version=n) for n in chosen)


def _folder(beside: Path, base: str) -> Path | None:
    """The base path itself or, as configurations name a path inside a container, its tail beside the file."""
    if "://" in base:
        return None
    parts = Path(base).parts
    tails = (beside.joinpath(*parts[start:]) for start in range(len(parts)) if ".." not in parts)
    return next((folder for folder in (beside / base, *tails) if folder.is_dir() and folder != beside), None)


def _absent(base: str, folder: Path | None) -> str:
    if "://" in base:
        return f"{base} is in a bucket: serve it where it lies with `rung serve`, or copy it here"
    if folder is None:
        return f"there is no folder {base}, neither there nor beside the configuration"
    return f"{base} holds no folder named by a number"
