import itertools
from contextlib import suppress
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.domain.errors import ConfigurationError, NotFound
from rung.domain.identity import LENGTH, Keyring, parse
from rung.domain.names import MAX_VERSION

KEY = bytes(range(32))
arms = st.sampled_from(["", "stable", "canary", "baseline", "shadow", "split"])


@given(
    st.integers(1, MAX_VERSION),
    arms,
    st.integers(0, 10**12 - 1),
    st.floats(0, 2**37),
    st.text("abcdefghij0123456789.-_", min_size=1, max_size=63),
)
def test_an_id_says_what_it_was_minted_for(version, arm, epoch, now, model):
    name = f"v{version}" if arm == "split" else arm
    text = Keyring(KEY, 7).mint(model, version, name, epoch)(now)
    assert len(text) == LENGTH <= 64
    assert text.isascii()
    assert text.replace("-", "").replace("_", "").isalnum()
    identity = Keyring(KEY).verify(text, ["other", model])
    assert (identity.version, identity.arm, identity.epoch, identity.model) == (version, name, epoch, model)
    assert identity.time == int(now * 1000) / 1000
    assert parse(text).epoch == epoch


def test_ids_of_one_process_and_of_two_differ():
    mints = [Keyring(KEY, start).mint("m", 1, "stable", 1) for start in (1 << 10, 1 << 20, (1 << 40) - 5)]
    ids = [mint(1.7e9) for mint in mints for _ in range(1000)]
    assert len(set(ids)) == len(ids)


@given(st.data())
def test_no_changed_id_verifies(draw):
    text = Keyring(KEY, 1).mint("m", 3, "canary", 9)(1.7e9)
    place = draw.draw(st.integers(0, LENGTH - 1))
    other = draw.draw(st.sampled_from("ABCabc019-_"))
    forged = text[:place] + other + text[place + 1 :]
    if forged != text:
        with pytest.raises(NotFound):
            Keyring(KEY).verify(forged, ["m"])


def test_another_key_or_another_model_does_not_verify():
    text = Keyring(KEY).mint("m", 1)(1.7e9)
    with pytest.raises(NotFound, match="no prediction of a model known here"):
        Keyring(bytes(32)).verify(text, ["m"])
    with pytest.raises(NotFound):
        Keyring(KEY).verify(text, ["n", "mm", ""])
    with pytest.raises(NotFound):
        Keyring(KEY).verify(text, [])


def test_a_model_whose_name_hashes_alike_does_not_verify():
    """The hint is 16 bits: names that share it are told apart by the tag."""
    hint = parse(Keyring(KEY).mint("m", 1)(0.0)).hint
    twin = next(
        name for name in (f"n{i}" for i in itertools.count()) if parse(Keyring(KEY).mint(name, 1)(0.0)).hint == hint
    )
    text = Keyring(KEY).mint("m", 1)(1.7e9)
    with pytest.raises(NotFound):
        Keyring(KEY).verify(text, [twin])
    assert Keyring(KEY).verify(text, [twin, "m"]).model == "m"


@pytest.mark.parametrize("text", ["", "x" * 47, "x" * 49, "ü" * 48, "=" * 48, "A" * 47 + "\n", "AAB/" * 12, "\0" * 48])
def test_what_is_no_id_is_not_found(text):
    with pytest.raises(NotFound, match="is no prediction id"):
        parse(text)


@given(st.text(max_size=60) | st.text("ABCabc019-_", min_size=48, max_size=48))
def test_any_text_is_an_id_or_not_found(text):
    with suppress(NotFound):
        assert parse(text)


def test_keys_and_arms_that_will_not_do_are_refused():
    with pytest.raises(ConfigurationError, match="32 bytes"):
        Keyring(b"short")
    with pytest.raises(ConfigurationError, match="an arm is called"):
        Keyring(KEY).mint("m", 1, "v2")


def test_minting_is_cheap():
    """Under 2 us on an idle machine; the bound here bears a busy one."""
    mint = Keyring(KEY).mint("m", 1, "stable", 1)
    best = min(_seconds(mint) for _ in range(20))
    assert best / 1000 < 20e-6


def _seconds(mint):
    began = perf_counter()
    for _ in range(1000):
        mint(1.7e9)
    return perf_counter() - began
