"""What claims give: the whole table of refusals, and roles and models as settings map them."""

import math

import pytest

from rung.domain.access import Ring
from rung.domain.errors import Forbidden, Unauthenticated
from rung.domain.tokens import TokenRules, key_of

NOW = 1_000_000.0
RULES = TokenRules(issuer="https://id.example", audience=("rung", "other"))
CLAIMS = {"iss": "https://id.example", "aud": "rung", "sub": "u-1", "exp": NOW + 60, "roles": ["caller"]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"iss": "https://id.example/"}, "another issuer"),
        ({"iss": None}, "another issuer"),
        ({"aud": "rung-too"}, "for somebody else"),
        ({"aud": "rung other"}, "for somebody else"),
        ({"aud": ["web"]}, "for somebody else"),
        ({"aud": []}, "for somebody else"),
        ({"aud": {"rung": 1}}, "for somebody else"),
        ({"exp": NOW - 31}, "has expired"),
        ({"exp": NOW - 30}, "has expired"),
        ({"exp": "tomorrow"}, "`exp` of this token is no time"),
        ({"exp": True}, "is no time"),
        ({"exp": math.inf}, "is no time"),
        ({"nbf": NOW + 31}, "`nbf` lies in the future"),
        ({"iat": NOW + 31}, "`iat` lies in the future"),
        ({"nbf": None}, "is no time"),
        ({"sub": ""}, "who its bearer is"),
        ({"sub": 7}, "who its bearer is"),
    ],
)
def test_what_is_not_for_here_and_now_is_none(changes, said):
    with pytest.raises(Unauthenticated, match=said):
        key_of(CLAIMS | changes, RULES, NOW)


@pytest.mark.parametrize("missing", ["iss", "aud", "exp", "sub"])
def test_what_says_too_little_is_none(missing):
    with pytest.raises(Unauthenticated):
        key_of({name: value for name, value in CLAIMS.items() if name != missing}, RULES, NOW)


def test_clocks_may_differ_and_the_key_ends_with_the_token():
    key = key_of(CLAIMS | {"exp": NOW - 29, "nbf": NOW + 29, "aud": ["web", "other"]}, RULES, NOW)
    assert key.expires == NOW + 1
    assert (key.role, key.models, key.name) == ("caller", ("*",), "u-1")


def test_a_bearer_has_one_id_whatever_the_token_and_no_key_of_ours_can_have_it():
    one, two = (key_of(CLAIMS | {"exp": NOW + seconds}, RULES, NOW) for seconds in (60, 90))
    assert one.id == two.id != key_of(CLAIMS | {"sub": "u-2"}, RULES, NOW).id
    assert one.id.startswith("oidc:")
    assert "u-1" not in one.id
    assert Ring(tokens=lambda token, now: one).why_not(one, NOW) == ""
    assert Ring().why_not(one, NOW)


@pytest.mark.parametrize(
    ("rules", "claims", "role"),
    [
        ({}, {"roles": ["caller", "deployer", "viewer"]}, "deployer"),
        ({}, {"roles": "viewer operator"}, "operator"),
        ({"role_claim": "groups", "roles": {"ml": "deployer"}}, {"groups": ["staff", "ml"]}, "deployer"),
        ({"role_claim": "realm_access.roles"}, {"realm_access": {"roles": ["admin"]}}, "admin"),
        ({"role_claim": "https://acme.example/roles"}, {"https://acme.example/roles": ["viewer"]}, "viewer"),
        ({"roles": {"boss": "admin"}}, {"roles": ["admin"]}, None),
        ({}, {"roles": []}, None),
        ({}, {"roles": [["admin"], 1, None]}, None),
        ({"role_claim": "a.b"}, {"a": "b"}, None),
        ({"role_claim": "nothing"}, {}, None),
    ],
)
def test_a_role_comes_from_the_claim_and_from_nothing_else(rules, claims, role):
    rules = TokenRules(issuer=RULES.issuer, audience=RULES.audience, **rules)
    if role is None:
        with pytest.raises(Forbidden, match="gives no role here"):
            key_of(CLAIMS | claims, rules, NOW)
    else:
        assert key_of(CLAIMS | claims, rules, NOW).role == role


@pytest.mark.parametrize(
    ("rules", "claims", "models"),
    [
        ({"model_claim": "models"}, {"models": ["cells-*", "spam"]}, ("cells-*", "spam")),
        ({"model_claim": "models"}, {"models": "spam"}, ("spam",)),
        (
            {"model_claim": "groups", "models": {"bio": ("cells-*", "nuclei")}},
            {"groups": ["bio", "x"]},
            ("cells-*", "nuclei"),
        ),
        ({"model_claim": "models"}, {"models": []}, None),
        ({"model_claim": "models"}, {}, None),
        ({"model_claim": "models"}, {"models": ["Not A Model", "\n"]}, None),
        ({"model_claim": "groups", "models": {"bio": ("cells",)}}, {"groups": ["*"]}, None),
    ],
)
def test_models_come_from_the_claim_and_no_claim_is_no_model(rules, claims, models):
    rules = TokenRules(issuer=RULES.issuer, audience=RULES.audience, **rules)
    if models is None:
        with pytest.raises(Forbidden, match="is for no model here"):
            key_of(CLAIMS | claims, rules, NOW)
    else:
        assert key_of(CLAIMS | claims, rules, NOW).models == models


def test_a_name_is_one_short_line():
    rules = TokenRules(issuer=RULES.issuer, audience=RULES.audience, name_claim="email")
    assert key_of(CLAIMS | {"email": "ana@example.com"}, rules, NOW).name == "ana@example.com"
    assert key_of(CLAIMS | {"email": "a\nb" + "c" * 200}, rules, NOW).name == "a?b" + "c" * 97
    assert key_of(CLAIMS | {"email": ["x"]}, rules, NOW).name == "u-1"
