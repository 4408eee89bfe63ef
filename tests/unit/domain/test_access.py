"""Keys, roles, scopes, and the bucket that paces a caller."""

from itertools import product

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.domain.access import (
    ROLES,
    Bucket,
    Key,
    Revocation,
    Ring,
    allows,
    in_scope,
    permit,
    read_bearer,
    write_token,
)
from rung.domain.errors import Forbidden, InvalidInput, Unauthenticated


def made(number: int = 1, **fields) -> tuple[str, Key]:
    token, key_id, digest = write_token(bytes([number] * 5), bytes([number] * 32))
    return token, Key(id=key_id, digest=digest, **{"name": f"key-{number}", **fields})


# --- keys ---------------------------------------------------------------------------------------------


def test_a_key_is_found_by_its_text_and_by_nothing_near_it():
    token, key = made()
    ring = Ring([key])

    assert ring.find(token, 0.0) is key
    assert token not in repr(key)
    other, _ = made(2)
    for wrong in (
        "",
        "rung_",
        token[:-1],
        token + "a",
        token.upper(),
        other,
        token[:14] + other[14:],
        "x" * 70,
        "\udcff",
    ):
        with pytest.raises(Unauthenticated):
            ring.find(wrong, 0.0)


@given(st.binary(min_size=5, max_size=5), st.binary(min_size=32, max_size=32))
def test_every_key_that_can_be_drawn_is_found(id_bytes, secret):
    token, key_id, digest = write_token(id_bytes, secret)
    ring = Ring([Key(id=key_id, digest=digest, name="k")])

    assert ring.find(token, 0.0).name == "k"


@given(st.text())
def test_no_text_is_a_key_by_chance(text):
    with pytest.raises(Unauthenticated):
        Ring([made()[1]]).find(text, 0.0)


def test_a_key_that_ended_says_so_to_whoever_knows_its_secret_only():
    (late, expired), (gone, revoked) = made(1, expires=10.0), made(2)
    ring = Ring([expired, revoked], [Revocation(id=revoked.id, at=1.0)])

    assert ring.find(late, 9.9) is expired
    with pytest.raises(Unauthenticated, match=r"'key-1' .* has expired"):
        ring.find(late, 10.0)
    with pytest.raises(Unauthenticated, match=r"'key-2' .* has been revoked"):
        ring.find(gone, 0.0)
    with pytest.raises(Unauthenticated, match="not known here"):
        ring.find(gone[:-1] + "b", 0.0)


def test_a_key_of_the_settings_is_an_admins():
    ring = Ring(static=["a-key-that-nobody-guesses"])

    found = ring.find("a-key-that-nobody-guesses", 0.0)
    assert (found.role, ring.why_not(found, 0.0)) == ("admin", "")
    assert "nobody" not in found.name
    with pytest.raises(Unauthenticated):
        ring.find("a-key-that-nobody-guesset", 0.0)


def test_a_door_closes_by_the_first_key_made_for_it_and_never_opens_again():
    caller, viewer = made(1)[1], made(2, role="viewer")[1]

    def guarded(*arguments, **named):
        ring = Ring(*arguments, **named)
        return ring.guards_data, ring.guards_control

    assert guarded() == (False, False)
    assert guarded([caller]) == (True, False)
    assert guarded([viewer]) == (False, True)
    assert guarded([caller, viewer]) == (True, True)
    assert guarded([caller], [Revocation(id=caller.id, at=0.0)]) == (True, False)
    assert guarded([msgspec.structs.replace(caller, expires=-1.0)]) == (True, False)
    assert guarded(unreadable=["keys/x.json holds no key"]) == (True, True)
    assert guarded(static=["a-key-that-nobody-guesses"]) == (False, True)


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"name": ""}, "name"),
        ({"name": " a"}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "n" * 101}, "name"),
        ({"models": ()}, "models"),
        ({"models": ("Upper",)}, "models"),
        ({"role": "admin", "models": ("m",)}, "admin"),
        ({"rate": -1.0}, "rate"),
        ({"rate": float("nan")}, "rate"),
        ({"rate": float("inf")}, "rate"),
        ({"rate": 1e-320}, "rate"),
        ({"quota": -1}, "quota"),
        ({"burst": 5}, "burst"),
        ({"created": 5.0, "expires": 5.0}, "expired"),
    ],
)
def test_fields_that_make_no_sense_are_refused(fields, names):
    with pytest.raises(InvalidInput, match=names):
        made(**fields)[1].checked()


# --- roles and scopes ---------------------------------------------------------------------------------


def test_each_role_may_do_what_those_before_it_may():
    for (have, role), (want, needs) in product(enumerate(ROLES), enumerate(ROLES)):
        assert allows(role, needs) == (have >= want)
    assert all(allows(role, "open") for role in ROLES)


def test_a_scope_is_of_names_and_patterns():
    assert in_scope(("*",), "anything")
    assert in_scope(("cells-*", "spam"), "cells-2")
    assert not in_scope(("cells-*", "spam"), "cells")
    assert not in_scope(("cells-?",), "cells-22")

    key = made(role="deployer", models=("spam",))[1]
    permit(key, "deployer", "spam")
    permit(key, "viewer", None)
    with pytest.raises(Forbidden, match="takes the role admin, and the key 'key-1' has the role deployer"):
        permit(key, "admin", None)
    with pytest.raises(Forbidden, match="not for the model 'nuclei': it is for spam"):
        permit(key, "caller", "nuclei")


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, ""),
        ({b"authorization": b"Bearer k"}, "k"),
        ({b"authorization": b"bearer  k "}, "k"),
        ({b"authorization": b"Basic k"}, ""),
        ({b"x-api-key": b"k"}, "k"),
        ({b"authorization": b"Basic b", b"x-api-key": b"k"}, "k"),
        ({b"authorization": b"Bearer a", b"x-api-key": b"k"}, "a"),
        ({b"x-api-key": b"\xff"}, "\xff"),
    ],
)
def test_a_key_is_read_off_two_headers(headers, found):
    assert read_bearer(headers) == found


# --- the bucket ---------------------------------------------------------------------------------------


def test_a_bucket_lets_a_burst_through_and_then_its_rate():
    bucket = Bucket(10.0, 3)

    assert [bucket.take(5.0) == 0.0 for _ in range(5)] == [True, True, True, False, False]
    assert bucket.take(5.0) == pytest.approx(0.1, abs=1e-6)
    assert bucket.take(5.1) == 0.0
    assert bucket.take(5.1) > 0.0
    assert [bucket.take(99.0) == 0.0 for _ in range(4)] == [True, True, True, False]


@given(
    st.floats(0.01, 1e4),
    st.integers(1, 50),
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=200),
)
def test_no_window_sees_more_than_burst_and_rate_and_the_wait_is_honest(rate, burst, pauses):
    bucket, now, passed = Bucket(rate, burst), 1000.0, []
    for pause in pauses:
        now += pause / rate
        wait = bucket.take(now)
        if wait == 0.0:
            passed.append(now)
        else:
            again = Bucket(rate, burst)
            again._due = bucket._due
            assert again.take(now + wait + 1e-6) == 0.0
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            assert last - first + 1 <= burst + rate * (passed[last] - passed[first]) + 1e-3


def test_a_bucket_that_changes_its_pace_keeps_what_is_left():
    bucket = Bucket(1.0, 4)
    for _ in range(4):
        bucket.take(0.0)

    bucket.pace(0.5, 2)
    assert bucket.take(0.0) > 0.0
    assert bucket.take(4.0) == 0.0


def test_the_project_s_own_workers_shut_no_door_and_may_only_ask():
    ring = Ring(workers=("a-secret-of-this-life",))
    assert not ring.guards_data
    assert not ring.guards_control
    found = ring.find("a-secret-of-this-life", 0.0)
    assert (found.name, found.role) == ("workers", "caller")
    assert ring.why_not(found, 1e12) == ""
    with pytest.raises(Unauthenticated):
        ring.find("another", 0.0)
