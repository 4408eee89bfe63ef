"""Builds a recorded environment again: the same Python, and the same packages by pip, in a folder of their own.

Where pip gets packages from is its own matter (its settings, or a folder of wheels); no address stands here.
"""

import fcntl
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from rung.domain.errors import MissingDependency
from rung.training.environment import Environment, normal, system

__all__ = ["ENVIRONMENTS", "build"]

ENVIRONMENTS = ".rung/environments"
_COMPLETE = "complete"
"""A file that says that all was installed."""
_WAY_OUT = "rung reproduce --same-environment tries with the packages that are here"


def build(folder: Path, recorded: Environment) -> Path:
    """The interpreter of an environment with the recorded packages, which is made in `folder` if it is not there yet.

    Raises:
        MissingDependency: it cannot be made; the message says why, and what to do.
    """
    place = folder.resolve() / recorded.digest[:16]
    python = place / "bin" / "python"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (place / _COMPLETE).exists():
            return python
        shutil.rmtree(place, ignore_errors=True)
        if recorded.system != system():
            raise MissingDependency(f"it ran on {recorded.system}, and this is {system()}: go to such a machine")
        wanted = [*_published(recorded), *_unpublished(recorded)]
        if importlib.util.find_spec("pip") is None:
            raise MissingDependency(f"pip is not here to install what it ran with: install pip, or {_WAY_OUT}")
        _run([str(_interpreter(recorded.python)), "-m", "venv", "--without-pip", str(place)], "making a venv")
        asked = place / "requirements.txt"
        asked.write_text("".join(f"{line}\n" for line in wanted))
        pip = [sys.executable, "-m", "pip", "--python", str(python), "--no-input", "--disable-pip-version-check"]
        _run([*pip, "install", "--quiet", "--no-deps", "-r", str(asked)], "pip install of what it ran with")
        (place / _COMPLETE).touch()
    return python


def _published(recorded: Environment) -> list[str]:
    return [one for one in recorded.packages if one.rpartition("==")[0] not in recorded.unpublished]


def _unpublished(recorded: Environment) -> list[str]:
    """Those that no index has, from where this environment has them."""
    found = []
    for name in recorded.unpublished:
        here = _source(name)
        if here is None:
            raise MissingDependency(
                f"{name} was installed from a folder, which is not known here: install it from there, or {_WAY_OUT}"
            )
        found.append(here)
    return found


def _source(name: str) -> str | None:
    """What pip is told to install a package of this environment again from its folder or file."""
    for one in metadata.distributions():
        if normal(one.metadata["Name"] or "") != name:
            continue
        text = one.read_text("direct_url.json")
        if not text:
            return None
        said = msgspec.json.decode(text)
        address = urlsplit(said.get("url", ""))
        path = unquote(address.path)
        if address.scheme != "file" or not os.path.exists(path):  # noqa: PTH110
            return None
        return f"-e {path}" if said.get("dir_info", {}).get("editable") else path
    return None


def _interpreter(version: str) -> Path:
    if platform.python_version() == version:
        return Path(sys.executable)
    minor = ".".join(version.split(".")[:2])
    for name in (f"python{minor}", "python3", "python"):
        found = shutil.which(name)
        if found and _run([found, "-c", "import platform; print(platform.python_version())"], name).strip() == version:
            return Path(found)
    raise MissingDependency(f"it ran with Python {version}, which is not on PATH: install that, or {_WAY_OUT}")


def _run(command: list[str], what: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines
        reason = errors[-1].removeprefix("ERROR:").strip()[:300] if errors else f"exit code {done.returncode}"
        raise MissingDependency(f"{what} failed: {reason}. Give pip a place that has them, or {_WAY_OUT}")
    return done.stdout
