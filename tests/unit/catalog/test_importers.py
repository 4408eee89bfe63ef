import contextlib
import json
import stat
import string
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.catalog.importers.plan import chosen_versions
from rung.catalog.importers.textproto import one, parse_textproto
from rung.catalog.imports import import_models
from rung.catalog.models import show
from rung.domain.errors import ConfigurationError
from rung.store.blobs import DiskStore
from rung.testing import models


@pytest.fixture(autouse=True)
def _scale_runtime():
    """The real runtimes, and not those that this folder's other tests see."""


def parse(text):
    return parse_textproto(text, "config.pbtxt")


def test_what_the_text_form_allows():
    text = r"""
    # a comment
    name: "one" 'two' ; platform: 'a\n\x41\101\\' , input { name: "x" dims: [ -1, 0x10, 010 ] }
    input: < name: "y"; dims: 3 dims: 4 >
    kind: KIND_CPU ratio: 1.5f small: -1e-3 flag: true empty: [] version_policy: { all {} }
    """

    assert parse(text) == {
        "name": ["onetwo"],
        "platform": ["a\nAA\\"],
        "input": [{"name": ["x"], "dims": [-1, 16, 8]}, {"name": ["y"], "dims": [3, 4]}],
        "kind": ["KIND_CPU"],
        "ratio": [1.5],
        "small": [-0.001],
        "flag": [True],
        "empty": [],
        "version_policy": [{"all": [{}]}],
    }
    assert one(parse("a: 1 a: 2"), "a", 0) == 2
    assert one(parse("a: []"), "a", 7) == 7
    assert one(parse("a: word"), "a", 7) == 7


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("name", "line 1, column 5"),
        ("name: {", "line 1, column 8"),
        ("a: 1\n  b: ]", "line 2, column 6"),
        ('a: "open', "line 1, column 4"),
        ("a: [1 2]", "line 1, column 7"),
        ("a { b: 1 >", "line 1, column 10"),
        ("}", "line 1, column 1"),
        ("a: 1 $", "line 1, column 6"),
        ("[type.googleapis.com/x] { }", "line 1"),
        ("a 1", "line 1, column 3"),
        ("a: 12abc", "line 1, column 4"),
        ("a {" * 100, "nested"),
    ],
)
def test_a_mistake_is_shown_where_it_is(text, place):
    with pytest.raises(ConfigurationError) as raised:
        parse(text)

    assert str(raised.value).startswith("config.pbtxt, ")
    assert place in str(raised.value)


NAMES = st.text(string.ascii_lowercase + "_", min_size=1, max_size=8)
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**64),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8"), max_size=20),
)
MESSAGES = st.recursive(
    st.dictionaries(NAMES, st.lists(SCALARS, max_size=3), max_size=4),
    lambda inner: st.dictionaries(NAMES, st.lists(inner | SCALARS, max_size=3), max_size=3),
    max_leaves=10,
)


def written(message):
    def value(v):
        if isinstance(v, dict):
            return "{ " + written(v) + " }"
        if isinstance(v, bool):
            return str(v).lower()
        if isinstance(v, str):
            special = {"\n": "\\n", "\\": "\\\\", '"': '\\"'}
            return '"' + "".join(special.get(letter, letter) for letter in v) + '"'
        return repr(v)

    return "\n".join(f"{name}: [{', '.join(map(value, values))}]" for name, values in message.items())


@given(MESSAGES)
def test_what_is_written_is_read(message):
    assert parse(written(message)) == message


@given(st.text(st.sampled_from("ab01.-+\"'\\{}<>[]:,;# \n\tfxe_é\x00"), max_size=60))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(ConfigurationError):
        parse(text)


@pytest.mark.parametrize(
    ("policy", "chosen"),
    [
        ("", [3]),
        ("latest { num_versions: 2 }", [2, 3]),
        ("latest { num_versions: 0 }", [3]),
        ("all { }", [1, 2, 3]),
        ("specific { versions: [1, 9] }", [1]),
        ("specific: 3", []),
    ],
)
def test_version_policies(policy, chosen):
    assert chosen_versions([3, 1, 2], parse(policy)) == chosen


# --- archives ------------------------------------------------------------------------------------


def mar(tmp_path, manifest=None, entries=None):
    path = tmp_path / "a.mar"
    model = {"modelName": "a", "serializedFile": "model.onnx", "handler": "base_handler", "modelVersion": "2"}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        if manifest is None:
            manifest = json.dumps({"model": model})
        if manifest:
            archive.writestr("MAR-INF/MANIFEST.json", manifest)
        archive.write(models.scale(tmp_path / "inside.onnx", 2.0), "model.onnx")
        for name, data in (entries or {}).items():
            archive.writestr(name, data)
    return path


def bring(tmp_path, source, **options):
    return import_models(DiskStore(tmp_path / "repository"), str(source), **options)


def test_a_sound_archive(tmp_path):
    report = bring(tmp_path, mar(tmp_path), name="b")

    assert [(each.name, each.version, each.runtime) for each in report.imported] == [("b", 2, "onnx")]


def link():
    entry = zipfile.ZipInfo("weights")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"../outside": "x"}, "leads out of the archive"),
        ({"/outside": "x"}, "leads out of the archive"),
        ({"a/../../outside": "x"}, "leads out of the archive"),
        ({"..\\outside": "x"}, "leads out of the archive"),
        ({link(): "/etc/passwd"}, "symbolic link"),
        ({"zeros": bytes(100 << 20)}, "more than a model archive does"),
        ({f"{number}": "" for number in range(10_001)}, "more than a model archive does"),
        ({"index_to_name.json": "[1]"}, "index_to_name.json cannot be read"),
    ],
    ids=["parent", "absolute", "inner", "backslash", "link", "bomb", "many", "labels"],
)
def test_a_hostile_archive_is_refused(tmp_path, entries, words):
    with pytest.raises(ConfigurationError) as raised:
        bring(tmp_path, mar(tmp_path, entries=entries))

    assert words in str(raised.value)
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("manifest", ["", "{", "[]", "\xff"])
def test_an_archive_without_a_manifest(tmp_path, manifest):
    with pytest.raises(ConfigurationError, match=r"MANIFEST\.json"):
        bring(tmp_path, mar(tmp_path, manifest=manifest))


def test_no_zip(tmp_path):
    (tmp_path / "a.mar").write_bytes(b"PK\x03\x04 no more")

    with pytest.raises(ConfigurationError, match="not a zip file"):
        bring(tmp_path, tmp_path / "a.mar")


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({}, "its weights are only made by code"),
        ({"serializedFile": "gone.pt"}, "gone.pt"),
        ({"serializedFile": "state.pth"}, "pickle"),
        ({"serializedFile": "model.onnx", "handler": "mine.py"}, "never run"),
        ({"serializedFile": ["model.onnx"]}, "holds no"),
    ],
)
def test_what_cannot_be_served_is_listed(tmp_path, model, reason):
    path = mar(tmp_path, json.dumps({"model": model}), {"state.pth": b"\x80\x04K\x01."})
    report = bring(tmp_path, path)

    assert report.imported == []
    assert any(reason in left.reason for left in report.left), report.left


def test_trust_does_not_make_a_pickle_welcome(tmp_path):
    manifest = json.dumps({"model": {"serializedFile": "state.pth", "modelFile": "model.py", "handler": "h.py"}})
    report = bring(tmp_path, mar(tmp_path, manifest, {"state.pth": b"\x80\x04K\x01.", "model.py": "x"}), trust=True)

    assert report.imported == []
    assert any("pickle" in left.reason for left in report.left)


@pytest.mark.filterwarnings("ignore")
def test_torchscript_with_its_shapes_stated_beside_the_archive(tmp_path):
    torch = pytest.importorskip("torch")
    torch.jit.save(torch.jit.trace(torch.nn.Linear(4, 2), torch.zeros(3, 4)), tmp_path / "net.pt")
    manifest = json.dumps({"model": {"modelName": "net", "serializedFile": "net.pt", "handler": "base_handler"}})
    path = mar(tmp_path, manifest, {"net.pt": (tmp_path / "net.pt").read_bytes()})

    report = bring(tmp_path, path)
    assert report.imported == []
    assert "net.pt.signature.json" in report.left[-1].reason
    (tmp_path / "net.pt.signature.json").write_text('{"inputs": {"input": ["FP32", [-1, 4]]}}')
    assert [each.runtime for each in bring(tmp_path, path).imported] == ["torch"]


# --- repositories --------------------------------------------------------------------------------


def test_one_bad_model_does_not_stop_the_others(tmp_path):
    for name in ("good", "bad", "empty"):
        (tmp_path / "repo" / name / "1").mkdir(parents=True)
        (tmp_path / "repo" / name / "config.pbtxt").write_text(f'name: "{name}"')
    models.scale(tmp_path / "repo/good/1/model.onnx", 2.0)
    (tmp_path / "repo/bad/1/model.onnx").write_text("no model")
    report = bring(tmp_path, tmp_path / "repo")

    assert [each.name for each in report.imported] == ["good"]
    assert {left.what for left in report.left} == {"bad 1", "empty 1"}
    again = bring(tmp_path, tmp_path / "repo/good")
    assert "exists already" in again.left[0].reason


ENSEMBLE = """
platform: "ensemble" max_batch_size: 8
model_transaction_policy { decoupled: true }
input [ { name: "RAW" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "DONE" data_type: TYPE_FP32 dims: [ 4 ] } ]
ensemble_scheduling {
  step [
    {
      model_name: "double" model_version: -1
      input_map { key: "x" value: "RAW" } output_map { key: "y" value: "between" }
    },
    {
      model_name: "Triple" model_version: 2 model_namespace: "here"
      input_map { key: "x" value: "between" } output_map { key: "y" value: "DONE" }
    }
  ]
}
"""


def ensemble(tmp_path, text=ENSEMBLE, name="chain"):
    for model, version, factor in (("double", 1, 2.0), ("Triple", 1, 30.0), ("Triple", 2, 3.0)):
        folder = tmp_path / "repo" / model / str(version)
        folder.mkdir(parents=True)
        models.scale(folder / "model.onnx", factor)
    (tmp_path / "repo/Triple/config.pbtxt").write_text("version_policy { all { } }")
    (tmp_path / "repo" / name).mkdir()
    (tmp_path / "repo" / name / "config.pbtxt").write_text(text)
    return bring(tmp_path, tmp_path / "repo")


def test_an_ensemble_becomes_a_sequence(tmp_path):
    report = ensemble(tmp_path)

    assert [(each.name, each.version) for each in report.imported] == [
        ("triple", 1),
        ("triple", 2),
        ("double", 1),
        ("chain", 1),
    ]
    manifest = show(DiskStore(tmp_path / "repository"), "chain")
    assert [(node.model, node.version, node.inputs, node.outputs) for node in manifest.graph.nodes] == [
        ("double", None, {"x": "RAW"}, {"y": "between"}),
        ("triple", 2, {"x": "between"}, {"y": "DONE"}),
    ]
    assert [spec.name for spec in manifest.signature.inputs] == ["RAW"]
    assert [spec.name for spec in manifest.signature.outputs] == ["DONE"]
    reasons = {left.what: left.reason for left in report.left}
    assert "not streamed" in reasons["chain: model_transaction_policy"]
    assert "--keep all" in reasons["chain: step 2, model_version 2"]
    assert "no counterpart" in reasons["chain: step 2, model_namespace"]
    assert not any(what.startswith("chain 1") for what in reasons)


def test_ensembles_of_ensembles_wait_for_each_other(tmp_path):
    (tmp_path / "repo/a-first").mkdir(parents=True)
    (tmp_path / "repo/a-first/config.pbtxt").write_text(
        """input { name: "x" data_type: TYPE_INT32 } output { name: "y" data_type: TYPE_FP32 }
        ensemble_scheduling { step { model_name: "chain" input_map { key: "RAW" value: "x" }
        output_map { key: "DONE" value: "y" } } }"""
    )
    report = ensemble(tmp_path)

    assert [each.name for each in report.imported][-2:] == ["chain", "a-first"]
    assert {"a-first 1: input x"} == {left.what for left in report.left if "a-first 1" in left.what}


def test_outputs_that_an_ensemble_does_not_mention_go_nowhere(tmp_path):
    (tmp_path / "repo/pair/1").mkdir(parents=True)
    models.add_sub(tmp_path / "repo/pair/1/model.onnx")
    # Both leave an output out, and the second one's input is called like what the first one's would be.
    text = """
    input [ { name: "OUTPUT1" data_type: TYPE_INT32 }, { name: "B" data_type: TYPE_INT32 } ]
    output { name: "SUM" data_type: TYPE_INT32 }
    ensemble_scheduling {
      step { model_name: "pair" input_map { key: "INPUT0" value: "OUTPUT1" } input_map { key: "INPUT1" value: "B" }
             output_map { key: "OUTPUT0" value: "half" } }
      step { model_name: "pair" input_map { key: "INPUT0" value: "OUTPUT1" } input_map { key: "INPUT1" value: "half" }
             output_map { key: "OUTPUT0" value: "SUM" } } }"""
    ensemble(tmp_path, text)

    signature = show(DiskStore(tmp_path / "repository"), "chain").signature
    assert [spec.name for spec in signature.inputs] == ["OUTPUT1", "B"]
    assert [spec.name for spec in signature.outputs] == ["SUM"]


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('"double"', '"absent"', "a step of the graph is missing"),
        ('"double"', '"chain"', "cannot be a step of itself"),
        ('key: "y" value: "DONE"', 'key: "z" value: "DONE"', "has no output 'z'"),
        ('value: "between" } output', 'value: "DONE" } output', "circle"),
        ('name: "DONE"', 'name: "LOST"', "no model of the graph makes the output 'LOST'"),
        ("model_version: 2", "model_version: 9", "missing"),
        ("step [", "steps [", "needs one model at least"),
        ('model_name: "double"', "model_name: 3 input_map: 4", "missing"),
    ],
)
def test_an_ensemble_that_does_not_fit_is_listed(tmp_path, before, after, words):
    assert before in ENSEMBLE
    report = ensemble(tmp_path, ENSEMBLE.replace(before, after))

    assert [each.name for each in report.imported] == ["triple", "triple", "double"]
    assert [words in left.reason for left in report.left if left.what == "chain 1"] == [True]


def test_a_name_for_several_models(tmp_path):
    for name in ("one", "two"):
        (tmp_path / "repo" / name / "1").mkdir(parents=True)
        (tmp_path / "repo" / name / "config.pbtxt").write_text("")
        models.scale(tmp_path / "repo" / name / "1/model.onnx", 2.0)

    with pytest.raises(ConfigurationError, match="several"):
        bring(tmp_path, tmp_path / "repo", name="x")


@pytest.mark.parametrize(
    "text",
    [
        'name: 1 version_policy: 7 input: 3 output { name: 4 label_filename: "../x" } max_batch_size: "x"',
        "name { } platform { } version_policy { specific: 1 latest { num_versions: x } }",
        'default_model_filename: "../../x" version_policy { specific { versions: { } } }',
    ],
)
def test_fields_of_the_wrong_type_do_no_harm(tmp_path, text):
    (tmp_path / "repo/m/1").mkdir(parents=True)
    (tmp_path / "repo/m/config.pbtxt").write_text(text)
    models.scale(tmp_path / "repo/m/1/model.onnx", 2.0)

    report = bring(tmp_path, tmp_path / "repo")
    assert report.imported or report.left


@pytest.mark.parametrize("text", ["model_config_list { config: 3 }", "model_config_list: 3", "# model_config_list"])
def test_a_configuration_without_models(tmp_path, text):
    (tmp_path / "models.config").write_text(text)

    with pytest.raises(ConfigurationError, match="lists no models"):
        bring(tmp_path, tmp_path / "models.config")


def test_a_configuration_with_fields_of_the_wrong_type(tmp_path):
    entry = "model_config_list { config { name: 3 base_path: 4 model_version_policy: 5 } config { name: 'x' } }"
    (tmp_path / "models.config").write_text(entry)

    assert bring(tmp_path, tmp_path / "models.config").imported == []
