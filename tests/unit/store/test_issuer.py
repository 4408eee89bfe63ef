"""Tokens against a real issuer over HTTP: its keys, their rotation, and tokens that it never made."""

import base64
import hashlib
import hmac
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from rung.domain.errors import NotReady, RungError, Unauthenticated
from rung.settings import OidcSettings
from rung.store import issuer as module
from rung.store.issuer import Issuer, fetch_keys
from rung.testing.issuers import LittleIssuer, little_issuer


@pytest.fixture(scope="module")
def provider():
    with little_issuer() as found:
        yield found


@pytest.fixture
def issuer(provider):
    provider.away = False
    found = Issuer(OidcSettings(issuer=provider.url, audience=("rung",), refresh_seconds=0.05))
    found.open()
    yield found
    found.close()
    found._thread.join(10)


def part(value: object) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def eventually(true) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.01)


def refused(issuer: Issuer, token: str, said: str) -> None:
    with pytest.raises(Unauthenticated, match=said):
        issuer.find(token, time.time())


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
def test_a_token_is_read_and_a_new_key_is_taken_up_by_itself(provider, issuer, algorithm):
    old = provider.token(roles=["viewer"])
    assert (issuer.find(old, time.time()).role, issuer.find(old, time.time()).name) == ("viewer", "ana")

    edition = issuer.edition
    provider.rotate(algorithm, keep=False)
    new = provider.token(roles=["deployer"])
    eventually(lambda: issuer.edition > edition)
    assert issuer.find(new, time.time()).role == "deployer"
    refused(issuer, old, "a key that the issuer does not name")


def test_what_the_issuer_never_made_is_none(provider, issuer):
    provider.rotate("RS256", keep=False)
    edition = issuer.edition
    eventually(lambda: issuer.edition > edition)
    now = time.time()
    claims = {"iss": provider.url, "sub": "eve", "aud": "rung", "exp": now + 600, "roles": ["admin"]}
    name, key = next(reversed(provider.keys.items()))
    good = provider.token(roles=["admin"])
    head, body, signature = good.split(".")

    # No signature, and the public key as if it were a secret (RFC 8725, 2.1).
    for none in ("none", "None", "NONE", ""):
        refused(issuer, f"{part({'alg': none, 'kid': name})}.{part(claims)}.", "is not taken here")
    for secret in (key.as_pem(private=False), json.dumps(key.as_dict(private=False)).encode()):
        signed = f"{part({'alg': 'HS256', 'kid': name})}.{part(claims)}"
        mac = part(hmac.new(secret, signed.encode(), hashlib.sha256).digest())
        refused(issuer, f"{signed}.{mac}", "'HS256' is not taken here")
    # Signed by somebody else, under the issuer's name for its key; with a key of its own inside.
    other = RSAKey.generate_key(2048)
    refused(issuer, jwt.encode({"alg": "RS256", "kid": name}, claims, other), "signature is not the issuer's")
    inside = {"alg": "RS256", "kid": name, "jwk": other.as_dict(private=False)}
    refused(issuer, jwt.encode(inside, claims, other), "signature is not the issuer's")
    elsewhere = {"alg": "RS256", "kid": "x", "jku": "http://127.0.0.1:1/jwks"}
    refused(issuer, jwt.encode(elsewhere, claims, other), "does not name")
    # Another kind of signature by the right name.
    curve = ECKey.generate_key("P-256")
    refused(issuer, jwt.encode({"alg": "ES256", "kid": name}, claims, curve), "signature is not the issuer's")
    # A piece changed.
    refused(issuer, f"{head}.{part(claims)}.{signature}", "signature is not the issuer's")
    refused(issuer, f"{head}.{body}.{part(bytes(256))}", "signature is not the issuer's")
    refused(issuer, f"{head}.{body}.", "signature is not the issuer's")
    refused(issuer, f"{part({'alg': 'RS256', 'kid': name, 'crit': ['exp'], 'exp': 1})}.{body}.{signature}", "`crit`")
    refused(issuer, f"{part({'alg': 'RS256', 'kid': name, 'b64': False})}.{body}.{signature}", "signature")
    for text in (
        "a.b.c",
        "..",
        f"{good}.x",
        f"{good}=",
        "é.é.é",
        "a.b.c.d.e",
        part(b"[") + ".b.c",
        "x" * 20_000 + ".b.c",
    ):
        refused(issuer, text, "neither a key|signature is not")
    # Genuine, and not for here or now.
    refused(issuer, provider.token(aud="another", roles=["admin"]), "for somebody else")
    refused(issuer, provider.token(seconds=-31, roles=["admin"]), "has expired")
    refused(issuer, provider.token(iss="http://127.0.0.1:1", roles=["admin"]), "another issuer")
    refused(issuer, provider.token(nbf=now + 100, roles=["admin"]), "lies in the future")
    assert issuer.find(good, now).role == "admin"
    with pytest.raises(Unauthenticated, match="has expired"):
        issuer.find(good, now + 700)  # remembered, and looked at all the same


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda data: f"{part(data)}.{part(data)}.{part(data)}"))
def test_no_text_is_anything_but_refused(text):
    with pytest.raises(RungError):
        _QUIET.find(text, 0.0)


_QUIET = Issuer(OidcSettings(issuer="http://127.0.0.1:1", audience=("rung",)))


def test_an_unknown_key_has_them_fetched_and_strangers_cannot_hurry_that(provider, monkeypatch):
    monkeypatch.setattr(module, "_LEAST", 0.2)
    provider.away = False
    issuer = Issuer(OidcSettings(issuer=provider.url, audience=("rung",), refresh_seconds=3600.0))
    issuer.open()
    try:
        provider.rotate("ES256")
        asked, began = provider.asked, time.monotonic()
        token = provider.token(roles=["caller"])

        def taken() -> bool:
            try:
                return issuer.find(token, time.time()).role == "caller"
            except Unauthenticated:
                return False

        eventually(taken)
        unknown = provider.token(roles=["caller"], header={"kid": "made-up"})
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            refused(issuer, unknown, "does not name")
        assert provider.asked - asked <= (time.monotonic() - began) / 0.2 + 2
    finally:
        issuer.close()


def test_an_issuer_that_is_away_keeps_nobody_waiting_and_what_is_known_goes_on(provider, issuer):
    token = provider.token(roles=["caller"])
    edition = issuer.edition
    eventually(lambda: issuer.edition > edition or set(issuer._keys or ()) == set(provider.keys))
    provider.away = True
    eventually(lambda: "503" in issuer._why)
    assert issuer.find(token, time.time()).role == "caller"

    late = Issuer(OidcSettings(issuer=provider.url, audience=("rung",), refresh_seconds=0.05))
    late.open()
    with pytest.raises(NotReady, match="cannot be fetched"):
        late.find(token, time.time())
    provider.away = False
    eventually(lambda: late.edition)
    assert late.find(token, time.time()).role == "caller"
    late.close()


def test_what_an_issuer_shows_is_looked_at_before_it_is_used(provider, monkeypatch):
    small = {"kty": "RSA", "kid": "small", "n": part(bytes([255] * 128)), "e": "AQAB"}
    shown = LittleIssuer("http://127.0.0.1:1")
    shown.rotate("RS256")
    name, key = next(iter(shown.keys.items()))
    public = key.as_dict(private=False)
    listed: list[object] = [
        {"kty": "oct", "k": part(b"secret"), "kid": "shared"},
        small,
        {**public, "kid": "for encryption", "use": "enc"},
        {**public, "kid": "another algorithm", "alg": "RS512"},
        {"kty": "EC", "crv": "P-256", "kid": "not taken", "x": "AA", "y": "AA", "alg": "ES256"},
        {"kty": "FUTURE", "kid": "of a later time"},
        "no key",
        key.as_dict(private=True),
    ]
    pages = {"/.well-known/openid-configuration": {"issuer": shown.url, "jwks_uri": f"{shown.url}/jwks"}}
    monkeypatch.setattr(module, "_get", lambda url: pages.get(url.removeprefix(shown.url), {"keys": listed}))
    settings = OidcSettings(issuer=shown.url, audience=("rung",), algorithms=("RS256",))
    found = fetch_keys(settings)
    assert set(found) == {name}
    assert "d" not in found[name].as_dict()

    listed[:] = [small]
    with pytest.raises(ValueError, match="no key at"):
        fetch_keys(settings)
    pages["/.well-known/openid-configuration"]["jwks_uri"] = "http://elsewhere.example/jwks"
    with pytest.raises(ValueError, match="no https URL"):
        fetch_keys(settings)
    pages["/.well-known/openid-configuration"]["issuer"] = "http://elsewhere.example"
    with pytest.raises(ValueError, match="calls itself"):
        fetch_keys(settings)
