"""Write the reference pages that can be read off the code. `--check` only says whether they are up to date.

A page keeps what stands above its marker line; everything below it is written here.
"""

import ast
import importlib
import inspect
import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import typer.main

from rung import plugins, settings
from rung.api import application
from rung.domain import errors
from rung.protocols import status
from rung.settings import alerts, front, offline, project, scaling, scoring

REFERENCE = Path(__file__).parent / "reference"
SOURCE = Path(__file__).parents[1] / "src"
MARKER = "<!-- Below this line: written by docs/generate.py. -->"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def summary(documented: Any) -> str:
    """First paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(documented) or "").partition("\n\n")[0].split())


def field_docs(kind: type) -> dict[str, str]:
    """The strings that stand under the fields of a class."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(tree, ast.ClassDef)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairwise(tree.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def settings_page() -> Iterator[str]:
    """Every field of every settings class."""
    for kind, prefix in (
        (settings.ServeSettings, "RUNG_"),
        (settings.DoorSettings, "RUNG_DOOR_"),
        (settings.OidcSettings, "RUNG_OIDC_"),
    ):
        texts = field_docs(kind)
        rows = []
        for field in msgspec.structs.fields(kind):
            if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
                continue
            default = field.default
            shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
            rows.append(
                [
                    f"`{field.name}`",
                    f"`{prefix}{field.name.upper()}`",
                    f"`{shown}`" if shown != "" else "",
                    texts[field.name],
                ]
            )
        yield f"## {kind.__name__}\n\n{summary(kind)}\n"
        yield table(["setting", "environment", "default", "meaning"], rows)


SECTIONS = (
    (project.ProjectSection, "RUNG_PROJECT_"),
    (project.ModelSettings, ""),
    (project.DataSection, ""),
    (project.RunSection, ""),
    (project.TuneSection, ""),
    (project.ServeSection, ""),
    (scaling.ReplicaCount, ""),
    (project.LogSection, ""),
    (project.ReleaseSection, ""),
    (project.DriftSection, ""),
    (project.RetrainSection, ""),
    (scoring.ScoreSection, ""),
    (alerts.AlertsSection, ""),
    (alerts.AlertSection, ""),
    (project.ControlSettings, "RUNG_CONTROL_"),
    (project.WorkerSettings, "RUNG_WORKERS_"),
    (front.FrontSection, "RUNG_FRONT_"),
    (offline.OfflineSection, ""),
)
"""Sections of a project file whose keys stand there, and the beginning of their variables."""


def project_page() -> Iterator[str]:
    """Every section of a project file."""
    for kind, prefix in SECTIONS:
        texts = field_docs(kind)
        rows = []
        for field in msgspec.structs.fields(kind):
            if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
                continue
            # Several keys in a variable would be told apart by commas, which a key may hold.
            variable = f"`{prefix}{field.name.upper()}`" if prefix and field.name != "keys" else ""
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            # A table that is empty by default has no default that could be shown.
            shown = "" if default in ("", [], None, msgspec.NODEFAULT) else json.dumps(default)
            rows.append([f"`{field.name}`", variable, shown and f"`{shown}`", texts[field.name]])
        title, _, meaning = summary(kind).partition(": ")
        yield f"## {title}\n\n{meaning[:1].upper()}{meaning[1:]}\n"
        yield table(["key", "environment", "default", "meaning"], rows)


def control_page() -> Iterator[str]:
    """Every route of the control API, and what is sent to it."""
    document = application.document()
    schemas = document["components"]["schemas"]
    for tag in document["tags"]:
        yield f"## {tag['name'].capitalize()}\n\n{tag['description']}\n"
        rows, bodies = [], []
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                if operation["tags"] != [tag["name"]]:
                    continue
                given = [f"`{one['name']}`" for one in operation.get("parameters", []) if one["in"] == "query"]
                sent = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
                name = sent.get("$ref", "").rpartition("/")[2]
                bodies += [name] if name else []
                takes = ", ".join(given) or (f"[`{name}`](#{name.lower()})" if name else "")
                text = " ".join(operation["description"].split())
                rows.append([f"`{method.upper()} {path}`", operation["x-rung-role"], takes, text])
        yield table(["route", "role", "takes", "meaning"], rows)
        for name in bodies:
            fields = schemas[name]["properties"]
            required = schemas[name].get("required", [])
            yield f"### {name}\n\n{schemas[name].get('description', '')}\n"
            yield table(
                ["field", "default", "meaning"],
                [
                    [
                        f"`{field}`",
                        "required" if field in required else f"`{json.dumps(one.get('default'))}`",
                        one.get("description", ""),
                    ]
                    for field, one in fields.items()
                ],
            )


def errors_page() -> Iterator[str]:
    """Every error class, with the status that the HTTP protocols give it."""
    rows = []
    for name in errors.__all__:
        kind = getattr(errors, name)
        base = kind.__base__.__name__ if kind is not errors.RungError else ""
        rows.append([f"`{name}`", base and f"`{base}`", str(status.status_of(kind())), summary(kind)])
    yield table(["error", "is a", "HTTP status", "meaning"], rows)


def transforms_page() -> Iterator[str]:
    """Every registered transform with its parameters."""
    for name in plugins.TRANSFORMS:
        step = plugins.resolve(plugins.TRANSFORMS, name, "transform")
        documented = inspect.getdoc(step) or ""
        notes = dict(argument_docs(documented))
        yield f"## `{name}`\n\n{summary(step)}\n"
        rows = [
            [f"`{one.name}`", "required" if one.default is one.empty else f"`{one.default!r}`", notes.get(one.name, "")]
            for one in inspect.signature(step).parameters.values()
            if one.kind is one.KEYWORD_ONLY
        ]
        yield table(["parameter", "default", "meaning"], rows) if rows else "It takes no parameters.\n"


def argument_docs(documented: str) -> Iterator[tuple[str, str]]:
    """Names and texts of the `Args:` section of a docstring."""
    _, _, section = documented.partition("\nArgs:\n")
    name, text = "", ""
    for line in section.splitlines():
        if not line.startswith("    "):
            break
        if not line.startswith("     "):
            if name:
                yield name, text
            name, _, text = line.strip().partition(": ")
        else:
            text += " " + line.strip()
    if name:
        yield name, text


def runtimes_page() -> Iterator[str]:
    """Every registered runtime."""
    rows = []
    for name, target in plugins.RUNTIMES.items():
        runtime = plugins.resolve(plugins.RUNTIMES, name, "runtime")
        rows.append([f"`{name}`", f"`{target}`", summary(runtime)])
    yield table(["name", "implementation", "what it loads"], rows)


def metrics_page() -> Iterator[str]:
    """Every metric family of a replica."""
    from rung.app.replica import Replica
    from rung.serving.metrics import collect

    replica = Replica([], settings.ServeSettings())
    rows = []
    for family in [*collect([]), *replica._door_metrics()]:
        # prometheus-client writes counters with this ending.
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = getattr(family, "_labelnames", None) or ()
        rows.append([f"`{name}`", family.type, ", ".join(labels), family.documentation])
    yield table(["name", "type", "labels", "meaning"], sorted(rows))


def cli_page() -> Iterator[str]:
    """Every command with its arguments and options."""
    from rung import cli

    root = typer.main.get_command(cli.app)
    yield from command_section(root, "rung")


def command_section(command: Any, path: str) -> Iterator[str]:
    """One command, then those below it."""
    if getattr(command, "hidden", False):
        return
    text = " ".join((command.help or "").replace("\b", "").split())
    yield f"## `{path}`\n\n{text}\n"
    rows = []
    for one in command.params:
        if getattr(one, "hidden", False) or one.name == "help":
            continue
        is_argument = one.param_type_name == "argument"
        name = (one.metavar or one.name.upper()) if is_argument else ", ".join([*one.opts, *one.secondary_opts])
        required = "required" if one.required else ""
        default = "" if one.default in (None, "", (), [], False) or callable(one.default) else f"`{one.default}`"
        rows.append([f"`{name}`", required or default, " ".join((getattr(one, "help", "") or "").split())])
    if rows:
        yield table(["argument or option", "default", "meaning"], rows)
    for name, child in sorted(getattr(command, "commands", {}).items()):
        yield from command_section(child, f"{path} {name}")


def exports_page() -> Iterator[str]:
    """Every module with the names that it exports."""
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if {"cli", "__main__"} & {*parts} or not path.read_text().strip():
            continue
        module = importlib.import_module(".".join(part for part in parts if part != "__init__"))
        if getattr(module, "__all__", None):
            yield f"## `{module.__name__}`\n\n{summary(module)}\n"
            yield table(["name", "meaning"], [[f"`{name}`", export_doc(module, name)] for name in module.__all__])


def export_doc(module: ModuleType, name: str) -> str:
    """What an exported name says about itself."""
    value = getattr(module, name)
    if inspect.isclass(value) or inspect.isroutine(value):
        return summary(value) if value.__module__ == module.__name__ else ""
    body = ast.parse(inspect.getsource(module)).body
    for node, text in pairwise(body):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == name and isinstance(text, ast.Expr):
            return " ".join(str(ast.literal_eval(text.value)).split())
    return ""


PAGES: dict[str, Callable[[], Iterator[str]]] = {
    "cli.md": cli_page,
    "control-api.md": control_page,
    "errors.md": errors_page,
    "exports.md": exports_page,
    "metrics.md": metrics_page,
    "project.md": project_page,
    "runtimes.md": runtimes_page,
    "settings.md": settings_page,
    "transforms.md": transforms_page,
}


def expected(path: Path) -> str:
    """What a page should be."""
    above, marker, _ = path.read_text().partition(MARKER)
    assert marker, f"{path} has no marker line"
    return f"{above}{MARKER}\n\n" + "\n".join(PAGES[path.name]())


def main() -> int:
    """Write the stale pages, or with `--check` only name them."""
    check = "--check" in sys.argv
    stale = {path: text for name in PAGES if (text := expected(path := REFERENCE / name)) != path.read_text()}
    for path, text in stale.items():
        print(f"docs/reference/{path.name} {'is stale' if check else 'written'}")
        if not check:
            path.write_text(text)
    return 1 if stale and check else 0


if __name__ == "__main__":
    raise SystemExit(main())
