import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.domain.errors import ConfigurationError
from rung.settings.file import load_project, parse

WHOLE = """
# A comment
[project]
name = "cells"
repository = "s3://bucket/models"

[serve]
max_wait_ms = 500
keep = "all"

[serve.door]
max_body = 1000

[models.nuclei]
task = "segmentation"

[models.nuclei.serve]
objective_ms = 150
replicas = { min = 2, max = 4 }

[models."other.one".release]
ladder = [
    1,
    5,
    100,
]
guard = ["errors", { metric = "iou", margin = 0.02 }]

[models.nuclei.retrain]
on = ["drift", "labels:200"]

[workers]
count = 0
"""


def test_every_section():
    settings = parse(WHOLE)

    assert (settings.project.name, settings.project.store) == ("cells", "sqlite:.rung/rung.db")
    assert (settings.serve.max_wait_ms, settings.serve.keep, settings.serve.door.max_body) == (500.0, "all", 1000)
    assert settings.models["nuclei"].serve.replicas.max == 4
    assert settings.replicas == 2
    assert settings.models["other.one"].release.ladder == (1.0, 5.0, 100.0)
    assert settings.models["other.one"].release.guard[1] == {"metric": "iou", "margin": 0.02}
    assert settings.models["nuclei"].retrain.on == ("drift", "labels:200")
    assert settings.workers.count == 0


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('[project]\nnme = "x"', 2, "there is no `nme` in [project]; did you mean `name`?"),
        ("[serv]\nport = 1", 1, "there is no `serv` at the top of rung.toml; did you mean `serve`?"),
        ("\n\n[models.m.serve]\nobjective = 5", 4, "did you mean `objective_ms`?"),
        ("[models.m.serv]\n", 1, "there is no `serv` in [models.m]; did you mean `serve`?"),
        ("[models.m]\nobjective_ms = 5", 2, "it belongs into [models.m.serve]"),
        ("[serve]\nport = 70000", 2, "`serve.port` = 70000 will not do: Expected `int` <= 65535"),
        ('[serve]\n\nport = "80"', 3, "`serve.port` = '80' will not do: Expected `int`, got `str`"),
        ("serve.door.max_bdy = 1", 1, "did you mean `max_body`?"),
        ("[models.m.serve]\nreplicas = { min = 1, mx = 2 }", 2, "in [models.m.serve.replicas]; did you mean `max`?"),
        ("[models.m.release]\nladder = [\n  1,\n  200,\n]", 2, "`models.m.release.ladder`"),
        ("[models.m.retrain]\nzzz = 1", 2, "there are alpha, budget, cohort"),
        ("models = 3", 1, "[models.NAME]"),
        ("[models]\nm = 3", 2, "must be a table of settings"),
        ('[models."no such"]', 1, "no such"),
        ("[project]\nname = x", 2, "line 2"),
        ("[control]\nkeys = ['short']", 2, "16"),
    ],
)
def test_a_slip_is_named_with_its_line(text, line, said):
    with pytest.raises(ConfigurationError) as raised:
        parse(text)

    message = str(raised.value)
    assert said in message
    assert f":{line}:" in message or f"line {line}" in message


def test_a_key_is_not_shown():
    with pytest.raises(ConfigurationError) as raised:
        parse("[control]\nkeys = ['geheim']")

    assert "geheim" not in str(raised.value)


def test_flags_beat_the_environment_which_beats_the_file(tmp_path):
    (tmp_path / "rung.toml").write_text(
        "[serve]\nport = 1\nhost = '127.0.0.1'\n[control]\nport = 2\n[workers]\ncount = 3"
    )
    environ = {
        "RUNG_PORT": "10",
        "RUNG_CONTROL_PORT": "20",
        "RUNG_DOOR_MAX_BODY": "7",
        "RUNG_PROJECT_STORE": "sqlite:x.db",
        "RUNG_CONTROL_KEY": "k" * 16,
    }

    settings = load_project(tmp_path, {"serve": {"port": 100, "host": None}, "workers": {"count": 5}}, environ)

    assert (settings.serve.port, settings.control.port, settings.workers.count) == (100, 20, 5)
    assert (settings.serve.door.max_body, settings.project.store) == (7, "sqlite:x.db")
    assert settings.control.keys == ("k" * 16,)
    assert settings.project.name == tmp_path.name


@pytest.mark.parametrize("key", ["short", "with a space in it", "käse" * 8])
def test_a_key_that_no_header_can_carry_is_refused(tmp_path, key):
    (tmp_path / "rung.toml").write_text("[project]")
    with pytest.raises(ConfigurationError, match="key") as raised:
        load_project(tmp_path, {}, {"RUNG_CONTROL_KEY": key})
    assert key not in str(raised.value)


@pytest.mark.parametrize("content", [None, "", "  \n"])
def test_no_file_says_how_to_make_one(tmp_path, content):
    if content is not None:
        (tmp_path / "rung.toml").write_text(content)
    with pytest.raises(ConfigurationError, match=r"rung.toml") as raised:
        load_project(tmp_path, {}, {})

    example = str(raised.value).partition("\n\n")[2]
    assert len(parse(example).models) == 1


def test_what_is_no_text_is_refused(tmp_path):
    (tmp_path / "rung.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="UTF-8"):
        load_project(tmp_path, {}, {})


@given(st.text(alphabet=string.ascii_letters + string.digits + "[]{}=.\"'#\n ,_-", max_size=120))
def test_any_text_is_read_or_refused_in_words(text):
    refused = ""
    try:
        parse(text)
    except ConfigurationError as error:
        refused = str(error)
    assert not refused or "rung.toml" in refused


@given(st.text(st.characters(codec="utf-8"), max_size=60), st.sampled_from(["project", "serve", "models.m"]))
def test_any_unknown_key_gets_its_line(key, section):
    quoted = "".join(f"\\U{ord(letter):08x}" for letter in key)
    with pytest.raises(ConfigurationError, match=r"^rung.toml:3: there is no"):
        parse(f'[{section}]\n\n"?{quoted}" = 1')


@pytest.mark.parametrize("text", ['[serve]\n\ncache = "many"', '[models.m.serve]\n\ncache = "64 apples"'])
def test_a_rule_beyond_the_types_has_its_line_too(text):
    with pytest.raises(ConfigurationError, match=r"^rung.toml:3: in \[.*serve\]: .* is no size"):
        parse(text)
