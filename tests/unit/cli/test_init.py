"""A new project, or nothing at all."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from rung.cli.init import TEMPLATES, run, write
from rung.domain.errors import ConfigurationError
from rung.settings.file import load_project

FILES = [".gitignore", "README.md", "dataset.py", "model.py", "rung.toml"]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_project_that_rung_reads(template: str, tmp_path: Path) -> None:
    assert write(tmp_path / "deep" / "One Two", template) == FILES
    project = load_project(tmp_path / "deep" / "One Two")
    assert project.project.name == "one-two"
    [model] = project.models.values()
    assert model.train == "model:train"
    for name in FILES:
        text = (tmp_path / "deep" / "One Two" / name).read_text()
        assert "{{" not in text
        if name.endswith(".py"):
            ast.parse(text)


def test_templates_are_as_tidy_as_the_rest(tmp_path: Path) -> None:
    for template in TEMPLATES:
        write(tmp_path / template, template)
    for command in (["check", "--select", "E,F,W,I,B,UP,PTH,SIM,RUF"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--line-length", "120", "--no-cache", str(tmp_path)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("mine")
    with pytest.raises(ConfigurationError, match=r"holds model.py already, and nothing is written over"):
        write(tmp_path, "text")
    assert [path.name for path in tmp_path.iterdir()] == ["model.py"]
    assert (tmp_path / "model.py").read_text() == "mine"
    with pytest.raises(ConfigurationError, match="is a file: give a folder"):
        write(tmp_path / "model.py", "text")
    (tmp_path / "model.py").unlink()
    (tmp_path / "model.py").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigurationError, match=r"holds model.py already"):
        write(tmp_path, "text")


def test_twice_in_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run(Path(), "text")
    assert "next     rung train" in capsys.readouterr().out
    with pytest.raises(ConfigurationError, match="holds a project already"):
        run(Path(), "tabular")
    with pytest.raises(ConfigurationError, match="no template 'audio'; there are: tabular, text, segmentation"):
        write(tmp_path / "other", "audio")
    assert not (tmp_path / "other").exists()
