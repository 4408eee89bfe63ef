import io
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from rung.domain.errors import MissingDependency
from rung.training import rebuilding
from rung.training.environment import Environment, code, environment, hardware, normal, snapshot, system, unpack


def make(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "rung.toml").write_text("[project]\n")
    (folder / "model.py").write_text("def train(ctx): ...\n")
    (folder / "parts").mkdir()
    (folder / "parts/table.csv").write_text("a\n1\n")
    for hidden in (".rung", ".git", "__pycache__", "out"):
        (folder / hidden).mkdir()
        (folder / hidden / "other.py").write_text("no code of the project's")
    (folder / "picture.png").write_bytes(b"data")
    (folder / "large.csv").write_bytes(b"1\n" * (1 << 20))
    return folder


def test_environment_is_what_is_installed() -> None:
    here = environment()
    assert f"numpy=={metadata.version('numpy')}" in here.packages
    assert "rung" in here.unpublished or "rung" not in {one.partition("==")[0] for one in here.packages}
    assert list(here.packages) == sorted(here.packages)
    assert here.digest == environment().digest
    assert here.digest != Environment(here.python, here.system, here.packages[1:], here.unpublished).digest


def test_names_are_as_indexes_compare_them() -> None:
    assert normal("Ruamel.YAML__clib") == "ruamel-yaml-clib"


def test_machine_is_described() -> None:
    assert int(hardware()["cores"]) >= 1
    assert hardware()["memory"].endswith(" MiB")


def test_code_is_the_projects_own_files(tmp_path: Path) -> None:
    found = code(make(tmp_path / "one"))
    assert set(found.files) == {"rung.toml", "model.py", "parts/table.csv"}
    assert code(make(tmp_path / "two")).digest == found.digest
    (tmp_path / "two/model.py").write_text("def train(ctx): pass\n")
    assert code(tmp_path / "two").digest != found.digest


def test_snapshot_has_the_same_bytes_wherever_and_whenever_it_is_made(tmp_path: Path) -> None:
    snapshot(make(tmp_path / "one"), tmp_path / "one.tar.gz")
    snapshot(make(tmp_path / "two"), tmp_path / "two.tar.gz")
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()
    unpack(tmp_path / "one.tar.gz", tmp_path / "again")
    assert code(tmp_path / "again").files == code(tmp_path / "one").files


def test_snapshot_cannot_write_outside(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("x")
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "evil.py", "../outside.py")
    with pytest.raises(tarfile.TarError):
        unpack(tmp_path / "evil.tar.gz", tmp_path / "in" / "project")
    assert not (tmp_path / "in/outside.py").exists()


def recorded(**changes: object) -> Environment:
    here = environment()
    values = {"python": here.python, "system": system(), "packages": (), "unpublished": ()} | changes
    return Environment(**values)


def test_environment_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (tmp_path / "tiny-1.0-py3-none-any.whl").write_bytes(wheel())
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    wanted = recorded(packages=("tiny==1.0",))
    python = rebuilding.build(tmp_path / "environments", wanted)
    program = "import tiny, importlib.metadata as m; print(tiny.ANSWER, [d.name for d in m.distributions()])"
    assert rebuilding._run([str(python), "-c", program], "it").strip() == "42 ['tiny']"
    monkeypatch.setattr(rebuilding, "_run", lambda *_: pytest.fail("it was there already"))
    assert rebuilding.build(tmp_path / "environments", wanted) == python


def wheel() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("tiny.py", "ANSWER = 42\n")
        info = "tiny-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", f"tiny.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return made.getvalue()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"packages": ("no-such-thing==1.0",)}, "No matching distribution found for no-such-thing==1.0.*--same-envir"),
        ({"python": "3.4.10"}, "Python 3.4.10, which is not on PATH"),
        ({"system": "Plan9 vax"}, "it ran on Plan9 vax"),
        ({"packages": ("mine==1",), "unpublished": ("mine",)}, "mine was installed from a folder, which is not known"),
    ],
)
def test_environment_that_cannot_be_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict, said: str
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(MissingDependency, match=said):
        rebuilding.build(tmp_path / "environments", recorded(**changes))


def test_package_of_a_folder_is_installed_from_there_again() -> None:
    said = rebuilding._source("rung")
    assert said is None or Path(said.removeprefix("-e ")).exists()
    assert rebuilding._source("numpy") is None
