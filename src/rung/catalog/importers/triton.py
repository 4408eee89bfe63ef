"""Triton: a model repository whose folders may hold a `config.pbtxt`."""

from pathlib import Path

from rung.catalog.importers.plan import Found, Plan, called, chosen_versions, named, version_folders
from rung.catalog.importers.textproto import Message, messages, one, parse_textproto
from rung.domain.errors import ConfigurationError
from rung.domain.models import Graph, Node

__all__ = ["is_triton_repository", "plan_triton"]

_CONFIG = "config.pbtxt"
_CARRIED = frozenset(
    {"name", "platform", "backend", "input", "output", "version_policy", "default_model_filename"}
    | {"ensemble_scheduling"}
)
_REASONS = {
    "max_batch_size": "not needed: rung learns how large a batch pays, and the first dimension of the model says "
    "whether it may",
    "dynamic_batching": "not needed: rung batches what queued while the model was busy",
    "instance_group": "belongs to the server here: `rung serve --lanes N`",
    "model_warmup": "not needed: the golden examples made at registration warm a version up",
    "response_cache": "rung has no response cache yet",
    "optimization": "the runtime chooses its own optimizations",
    "parameters": "parameters of a backend have no counterpart in rung",
    "model_transaction_policy": "answers are not streamed",
    "scheduling_choice": "rung schedules by itself",
    "cc_model_filenames": "the file is not chosen by the device here",
}
_STEP = frozenset({"model_name", "model_version", "input_map", "output_map"})
_REFUSED = {
    "sequence_batching": "it keeps state between requests, which rung does not",
}
_BACKENDS = {
    "python": "it is Python code: serve a class of your own with `rung serve module:Class`",
    "tensorrt": "a TensorRT engine runs on the one GPU type it was built for: export the model to ONNX",
    "dali": "a DALI pipeline is code for GPUs: declare rung's image transforms instead",
}


def is_triton_repository(path: Path) -> bool:
    """Whether a folder is a repository with a `config.pbtxt`, or one model of such."""
    return path.is_dir() and ((path / _CONFIG).is_file() or any(path.glob(f"*/{_CONFIG}")))


def plan_triton(path: Path) -> Plan:
    """Every model of the repository; one that Triton would configure by itself has no `config.pbtxt`."""
    plan = Plan(f"a Triton model repository, {path.name}")
    alone = (path / _CONFIG).is_file()
    for folder in [path] if alone else sorted(child for child in path.iterdir() if child.is_dir()):
        if (folder / _CONFIG).is_file() or version_folders(folder):
            _plan_model(plan, folder)
    return plan


def _plan_model(plan: Plan, folder: Path) -> None:
    config: Message = {}
    if (folder / _CONFIG).is_file():
        try:
            text = (folder / _CONFIG).read_text(errors="replace")
            config = parse_textproto(text, f"{folder.name}/{_CONFIG}")
        except ConfigurationError as error:
            plan.leave(folder.name, str(error))
            return
    name = one(config, "name", "") or folder.name
    reason = _refusal(config)
    if reason:
        plan.leave(name, reason)
        return
    for key in sorted(config.keys() - _CARRIED):
        plan.leave(f"{name}: {key}", _REASONS.get(key, "it has no counterpart in rung"))
    if "ensemble_scheduling" in config:
        _plan_ensemble(plan, name, folder, config)
    else:
        _plan_versions(plan, name, folder, config)


def _plan_versions(plan: Plan, name: str, folder: Path, config: Message) -> None:
    numbers = version_folders(folder)
    chosen = chosen_versions(numbers, one(config, "version_policy", {}))
    if not chosen:
        plan.leave(name, "it has no version: expected a folder named by a number, with the model in it")
        return
    if len(chosen) > 1:
        plan.leave(f"{name}: version_policy", "all its versions are taken; serve them with --keep all")
    registered, labels = named(plan, name), _labels(plan, name, folder, config)
    inputs, outputs = (_datatypes(config, side) for side in ("input", "output"))
    for number in chosen:
        artifact = _artifact(numbers[number], one(config, "default_model_filename", ""))
        source = f"{folder.name}/{number}/{artifact.name}" if artifact != numbers[number] else f"{folder.name}/{number}"
        plan.found.append(Found(registered, artifact, source, number, "", labels, inputs, outputs))


def _plan_ensemble(plan: Plan, name: str, folder: Path, config: Message) -> None:
    """What Triton calls an ensemble is a sequence here."""
    scheduling = one(config, "ensemble_scheduling", {})
    for key in sorted(scheduling.keys() - {"step"}):
        plan.leave(f"{name}: ensemble_scheduling.{key}", "it has no counterpart in rung")
    steps = [_step(plan, name, number, step) for number, step in enumerate(messages(scheduling, "step"), start=1)]
    inputs, outputs = (_datatypes(config, side) for side in ("input", "output"))
    graph = Graph("sequence", tuple(steps), outputs=tuple(outputs))
    # Its version folders are empty, so they are easily lost on the way here; each would hold the same.
    version = max(chosen_versions(version_folders(folder), one(config, "version_policy", {})), default=1)
    labels, source = _labels(plan, name, folder, config), f"{folder.name}/{_CONFIG}"
    plan.found.append(Found(named(plan, name), folder, source, version, "", labels, inputs, outputs, graph))


def _step(plan: Plan, name: str, number: int, step: Message) -> Node:
    model, version = one(step, "model_name", ""), one(step, "model_version", -1)
    for key in sorted(step.keys() - _STEP):
        plan.leave(f"{name}: step {number}, {key}", "it has no counterpart in rung")
    if version > 0:
        reason = f"kept; where a later version of {model} is there too, serve them with --keep all"
        plan.leave(f"{name}: step {number}, model_version {version}", reason)
    inputs, outputs = (
        {one(pair, "key", ""): one(pair, "value", "") for pair in messages(step, side)}
        for side in ("input_map", "output_map")
    )
    return Node(called(model), version if version > 0 else None, inputs, outputs)


def _refusal(config: Message) -> str:
    for key, reason in _REFUSED.items():
        if key in config:
            return reason
    backend = (one(config, "backend", "") or one(config, "platform", "")).partition("_")[0]
    return _BACKENDS.get(backend, "")


def _artifact(folder: Path, default: str) -> Path:
    """What `default_model_filename` names, else the one entry called `model`, else the folder."""
    if default and default == Path(default).name and (folder / default).exists():
        return folder / default
    entries = [entry for entry in sorted(folder.iterdir()) if entry.stem == "model"]
    # An ONNX model with weights beside it is one file all the same: registering brings them along.
    return entries[0] if len(entries) == 1 else folder


def _labels(plan: Plan, name: str, folder: Path, config: Message) -> tuple[str, ...]:
    files = [one(output, "label_filename", "") for output in messages(config, "output")]
    for file in filter(None, files):
        path = folder / file
        if Path(file).name == file and path.is_file() and path.stat().st_size < 1 << 22:
            return tuple(line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip())
        plan.leave(f"{name}: label_filename", f"there is no file {file} in the model's folder")
    return ()


def _datatypes(config: Message, side: str) -> dict[str, str]:
    stated = {one(tensor, "name", ""): one(tensor, "data_type", "") for tensor in messages(config, side)}
    return {name: word.removeprefix("TYPE_").replace("STRING", "BYTES") for name, word in stated.items()}
