import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.domain.errors import InvalidInput
from rung.domain.names import MAX_VERSION, check_name, check_version, name_from, nearest, rather


@pytest.mark.parametrize("name", ["a", "0", "nuclei", "my-model", "my_model.v2", "a" * 63, "con-1", "latest-one", "a-"])
def test_names_that_are_fine(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "a..b", "a.", ".a", "-a", "_a", "A", "a b", "a/b", "a\\b", "../a", "a\n", "a\x00", "a%2e", "a:b",
        "n\u00e4me", "\u0430", "\uff41", "a\u200b", "a" * 64, "con", "nul.onnx", "com1", "lpt9.x", "releases", "models",
        "all",
    ],
)  # fmt: skip
def test_names_that_are_not(name):
    with pytest.raises(InvalidInput, match="cannot name a model") as error:
        check_name(name)
    assert error.value.field == "name"
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 250


@given(st.text())
def test_a_name_is_refused_or_safe_everywhere(text):
    try:
        name = check_name(text)
    except InvalidInput:
        return
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name)
    assert ".." not in name
    assert len(name) <= 63


@given(st.text())
def test_any_text_gives_a_name(text):
    name = name_from(text)
    assert check_name(name) == name
    assert name_from(name) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("My Model.v2", "my-model.v2"),
        ("net", "net"),
        ("con", "model-con"),
        ("../../etc", "etc"),
        ("Doubler", "doubler"),
    ],
)
def test_names_made_from_files(text, name):
    assert name_from(text) == name


@pytest.mark.parametrize(("given", "version"), [(1, 1), ("1", 1), ("42", 42), (MAX_VERSION, MAX_VERSION)])
def test_versions(given, version):
    assert check_version(given) == version


@pytest.mark.parametrize(
    "given",
    [
        0,
        -1,
        "0",
        "-1",
        "01",
        "+1",
        " 1",
        "1 ",
        "1.0",
        "1e3",
        "",
        "\u0661",
        "\u00b2",
        "9" * 17,
        MAX_VERSION + 1,
        "latest",
    ],
)
def test_what_is_no_version(given):
    with pytest.raises(InvalidInput, match="is not a version") as error:
        check_version(given)
    assert error.value.field == "version"


def test_who_names_what_is_not_there_is_told_what_is():
    assert rather("scael", ["other", "scale"]) == "did you mean scale?"
    assert rather("zzz", ["a", "b"]) == "there are a, b"
    assert rather("zzz", [f"n{n}" for n in range(11)]) == f"there are {', '.join(f'n{n}' for n in range(10))}, ..."
    assert rather("zzz", []) == "there are none"
    assert nearest("zzz", ["a"]) == ""
