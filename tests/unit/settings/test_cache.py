import pytest

from rung.domain.errors import ConfigurationError
from rung.settings import CachePlace, ServeSettings, cache_place, load, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("1KB", 1000), ("1KiB", 1024), ("64MiB", 64 << 20), ("1.5 GB", 1_500_000_000), ("2gib", 2 << 30)],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1e3", "64M", "64MiBs", "lots", "1.MiB", "\u0661MiB"])
def test_what_is_no_size_is_refused_with_an_example(text):
    with pytest.raises(ConfigurationError, match="64MiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", CachePlace()),
        ("0", CachePlace()),
        ("memory", CachePlace(64 << 20)),
        ("1MiB", CachePlace(1 << 20)),
        ("redis://h:1/0", CachePlace(64 << 20, "redis://h:1/0")),
        ("valkeys://user:pass@h/0", CachePlace(64 << 20, "valkeys://user:pass@h/0")),
        ("8MiB, redis://h", CachePlace(8 << 20, "redis://h")),
        ("memory,redis://h?a=1,2", CachePlace(64 << 20, "redis://h?a=1,2")),
    ],
)
def test_places(text, place):
    assert cache_place(text) == place


@pytest.mark.parametrize(
    ("flags", "environ", "words"),
    [
        ({"cache": "64 lots"}, {}, "--cache is not a valid setting.*64MiB"),
        ({}, {"RUNG_CACHE": "http://h"}, "RUNG_CACHE is not.*redis://HOST"),
        ({"cache": "1MiB,redis://"}, {}, "--cache is not.*redis://HOST"),
        ({"cache_ttl_seconds": 0}, {}, "--cache-ttl-seconds=0"),
    ],
)
def test_a_wrong_setting_is_named_with_its_origin(flags, environ, words):
    with pytest.raises(ConfigurationError, match=words):
        load(flags, environ)


def test_a_password_is_in_no_message():
    with pytest.raises(ConfigurationError) as raised:
        load({"cache": "http://user:hunter2@h"}, {})
    assert "hunter2" not in str(raised.value)


def test_off_unless_set():
    assert load({}, {}).cache == ""
    settings = load({}, {"RUNG_CACHE": "1MiB", "RUNG_CACHE_PRIVATE": "1", "RUNG_CACHE_MODELS": "a,b"})
    assert settings == ServeSettings(cache="1MiB", cache_private=True, cache_models=("a", "b"))
