"""What lies in the repository names no machine, no registry and no secret room."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Written in pieces, so that this file does not find itself.
MACHINE = ["/" + "work/", "/" + "tmp/", "/" + "root/", "/" + "home/", "." + "library"]
REGISTRIES = [
    "py" + "pi.org",
    "python" + "hosted.org",
    "download." + "pytorch.org",
    "npm" + "js.org",
    "conda" + ".anaconda",
]


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """Every file that is or would be committed, by its name."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    if done.returncode:
        pytest.skip("not a git checkout, so there is no list of files")
    found = {}
    for name in filter(None, done.stdout.split("\0")):
        try:
            found[name] = (ROOT / name).read_text()
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue
    return found


def test_no_path_of_a_machine(texts: dict[str, str]) -> None:
    pattern = re.compile(r"(?<![\w.$}])(" + "|".join(map(re.escape, MACHINE)) + ")")

    assert [(name, found[0]) for name, text in texts.items() if (found := pattern.search(text))] == []


def test_no_registry(texts: dict[str, str]) -> None:
    assert [(name, host) for name, text in texts.items() for host in REGISTRIES if host in text] == []


def test_versions_are_pinned_without_addresses() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]

    assert all(re.fullmatch(r"[a-z0-9.-]+==[0-9][a-z0-9.]*", pin) for pin in pins), "NAME==VERSION and nothing else"
    assert "torch==2.13.0" in pins
    assert pins == sorted(pins)


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    wanted = [
        *project["dependencies"],
        *(item for extra in project["optional-dependencies"].values() for item in extra),
    ]

    wanted = [item for item in wanted if not item.startswith("rung[")]  # an extra made of others
    assert [item for item in wanted if re.split(r"[\[<>=;~! ]", item)[0].lower() not in pinned] == []
    assert [item for item in wanted if "@" in item or "://" in item] == []


def test_links_in_the_documents_lead_somewhere(texts: dict[str, str]) -> None:
    dead = []
    for name, text in texts.items():
        if not name.endswith(".md"):
            continue
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", prose):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            page = (ROOT / name).parent / path if path else ROOT / name
            if not page.exists():
                dead.append(f"{name}: {target}")
            elif anchor and page.suffix == ".md" and anchor not in anchors(page.read_text()):
                dead.append(f"{name}: {target}: no such heading")

    assert dead == []


def anchors(text: str) -> set[str]:
    """What the headings of a page are called in links."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
