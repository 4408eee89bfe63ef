import pytest

from rung.domain.errors import ConfigurationError
from rung.settings import ProjectSettings
from rung.settings.file import parse
from rung.settings.scaling import ReplicaCount, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90.0), ("15min", 900.0), ("1.5h", 5400.0), (" 1d ", 86_400.0), ("2 w", 1_209_600.0)]
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "h", "-1h", "1m", "1h30min", "\N{ARABIC-INDIC DIGIT ONE}h"])
def test_what_is_no_duration_says_what_would_be(text):
    with pytest.raises(ConfigurationError, match="is no duration: write a number and s, min, h, d or w"):
        parse_duration(text)


def test_the_short_form_and_a_table_say_the_same():
    short = parse("[models.m.serve]\nreplicas = { min = 1, max = 4, p99_ms = 300 }")
    long = parse("[models.m.serve.replicas]\nmin = 1\nmax = 4\np99_ms = 300")
    assert short == long
    assert short.models["m"].serve.replicas == ReplicaCount(min=1, max=4, p99_ms=300)


def test_none_may_run_but_one_begins():
    settings = parse("[models.m.serve]\nreplicas = { min = 0, max = 2 }")
    assert (settings.least_replicas, settings.replicas, settings.most_replicas) == (0, 1, 2)
    assert (ProjectSettings().least_replicas, ProjectSettings().replicas, ProjectSettings().most_replicas) == (1, 1, 1)
    both = parse("[models.a.serve]\nreplicas = { min = 0 }\n[models.b.serve]\nreplicas = { min = 2 }")
    assert (both.least_replicas, both.replicas, both.most_replicas) == (2, 2, 2)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("[models.m.serve.replicas]\nmin = 3\nmax = 2", 2, "max = 2 is below min = 3"),
        ("[models.m.serve.replicas]\nmax = 2\nforecast = 'daily'", 3, "'daily' is no duration"),
        ("[models.m.serve.replicas]\nmax = 2\nutilisation = 70", 3, "utilisation"),
        ("[models.m.serve.replicas]\nmax = 2\ngrow = 1", 3, "grow"),
    ],
)
def test_a_slip_is_told_with_its_line(text, line, said):
    with pytest.raises(ConfigurationError, match=said) as error:
        parse(text)
    assert f":{line}:" in str(error.value)
