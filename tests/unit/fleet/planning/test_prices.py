import pytest

from rung.domain.errors import ConfigurationError
from rung.fleet.planning.prices import Platform, read_prices


def test_toml_and_json_say_the_same(tmp_path):
    (tmp_path / "prices.toml").write_text(
        'currency = "EUR"\n[platforms.vm]\nkind = "machine"\nhour = 0.08\nreplicas = 2\n'
    )
    (tmp_path / "prices.json").write_text(
        '{"currency": "EUR", "platforms": {"vm": {"kind": "machine", "hour": 0.08, "replicas": 2}}}'
    )
    found = read_prices(tmp_path / "prices.toml")
    assert found == read_prices(tmp_path / "prices.json")
    assert found.platforms == {"vm": Platform("machine", hour=0.08, replicas=2)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[platforms.vm]\nkind = 'boat'\n", "boat"),
        ("[platforms.vm]\nkind = 'machine'\nhour = -1\n", "hour"),
        ("[platforms.vm]\nkind = 'machine'\nhours = 1\n", "hours"),
        ("[platforms]\n", "has no platform"),
        ("oops", "is no file of prices"),
    ],
)
def test_a_slip_is_told_by_name(tmp_path, text, said):
    (tmp_path / "prices.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        read_prices(tmp_path / "prices.toml")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_prices(tmp_path / "none.toml")
