import msgspec
import pytest

from rung.domain.errors import ConfigurationError
from rung.settings import DoorSettings, ServeSettings, load


def test_defaults():
    assert load({}, {}) == ServeSettings()
    assert load({"port": None}, {}) == ServeSettings()


def test_flags_beat_the_environment_which_beats_defaults():
    environ = {"RUNG_PORT": "9000", "RUNG_OBJECTIVE_MS": "25", "RUNG_DOOR_MAX_BODY": "1000", "OTHER": "x"}
    settings = load({"port": 9001}, environ)
    assert (settings.port, settings.objective_ms, settings.door.max_body) == (9001, 25.0, 1000)
    assert settings.door == DoorSettings(max_body=1000)


@pytest.mark.parametrize(("text", "value"), [("1", True), ("true", True), ("0", False), ("false", False)])
def test_switches_in_the_environment(text, value):
    assert load({}, {"RUNG_ACCESS_LOG": text}).access_log is value


@pytest.mark.parametrize(("text", "pins"), [("3", (3,)), ("1,3", (1, 3))])
def test_pins_in_the_environment(text, pins):
    assert load({}, {"RUNG_PIN": text}).pin == pins


@pytest.mark.parametrize(
    ("flags", "environ", "words"),
    [
        ({"port": 99999}, {}, "--port=99999"),
        ({"port": -1}, {}, "--port=-1"),
        ({}, {"RUNG_PORT": "http"}, "RUNG_PORT='http'"),
        ({"keep": "some"}, {}, "--keep='some'.*some"),
        ({"objective_ms": -1.0}, {}, "--objective-ms=-1.0"),
        ({"versions": 0}, {}, "--versions=0"),
        ({"pin": (0,)}, {}, r"--pin=\(0,\)"),
        ({}, {"RUNG_PIN": "1,x"}, "RUNG_PIN='1,x'|RUNG_PIN"),
        ({}, {"RUNG_POLL_SECONDS": "0"}, "RUNG_POLL_SECONDS='0'"),
        ({}, {"RUNG_POLL_SECONDS": "nan"}, "RUNG_POLL_SECONDS='nan'"),
        ({}, {"RUNG_HANG_SECONDS": "-3"}, "RUNG_HANG_SECONDS"),
        ({}, {"RUNG_ACCESS_LOG": "perhaps"}, "RUNG_ACCESS_LOG='perhaps'"),
        ({}, {"RUNG_DOOR_MAX_HEAD": "0"}, "RUNG_DOOR_MAX_HEAD='0'"),
        ({}, {"RUNG_DOOR_IDLE_SECONDS": "soon"}, "RUNG_DOOR_IDLE_SECONDS='soon'"),
    ],
)
def test_a_wrong_value_is_named_with_its_origin(flags, environ, words):
    with pytest.raises(ConfigurationError, match=words):
        load(flags, environ)


def test_every_field_says_what_it_means():
    for kind in (ServeSettings, DoorSettings):
        for field in msgspec.structs.fields(kind):
            assert field.default is not msgspec.NODEFAULT, field.name


def test_an_issuer_in_the_environment_goes_with_an_audience_and_is_reached_safely():
    environ = {"RUNG_OIDC_ISSUER": "https://id.example", "RUNG_OIDC_AUDIENCE": "rung,web"}
    oidc = load({}, environ | {"RUNG_OIDC_ALGORITHMS": "ES256"}).oidc
    assert (oidc.issuer, oidc.audience, oidc.algorithms) == ("https://id.example", ("rung", "web"), ("ES256",))
    for changes, said in (
        ({"RUNG_OIDC_AUDIENCE": None}, "goes with an `audience`"),
        ({"RUNG_OIDC_ISSUER": "http://id.example"}, "https URL"),
        ({"RUNG_OIDC_JWKS": "file:///etc/passwd"}, "https URL"),
        ({"RUNG_OIDC_ALGORITHMS": "none"}, "RUNG_OIDC_ALGORITHMS"),
        ({"RUNG_OIDC_ALGORITHMS": "HS256"}, "RUNG_OIDC_ALGORITHMS"),
    ):
        changed = {name: text for name, text in (environ | changes).items() if text is not None}
        with pytest.raises(ConfigurationError, match=said):
            load({}, changed)
