"""Tokens of a real issuer at both doors of a whole project, and replicas ordered over the control API with one."""

import base64
import json
import time
from collections.abc import Callable

import httpx2
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey

from rung.testing.issuers import LittleIssuer, little_issuer

from .projects import PATIENCE, ROWS, Project
from .test_access import key

SETTINGS = """
[project]
name = "demo"
[workers]
count = 0
[models.tiny]
[serve.oidc]
issuer = "{issuer}"
audience = ["rung"]
refresh_seconds = 0.2
role_claim = "groups"
roles = {{ "users" = "caller", "ops" = "operator" }}
model_claim = "models"
name_claim = "email"
"""


@pytest.fixture
def issuer():
    with little_issuer() as found:
        yield found


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"} if token else {}


def eventually(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.05)


def hostile(issuer: LittleIssuer) -> dict[str, str]:
    """Tokens that must be 401 everywhere."""
    name, signing = next(reversed(issuer.keys.items()))
    claims = {
        "iss": issuer.url,
        "aud": "rung",
        "sub": "eve",
        "exp": time.time() + 600,
        "groups": ["ops"],
        "models": ["*"],
    }
    none = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in ({"alg": "none", "kid": name}, claims)
    ]
    secret = OctKey.import_key(signing.as_pem(private=False).hex())
    return {
        "without a signature": f"{'.'.join(none)}.",
        "signed with the public key": jwt.encode({"alg": "HS256", "kid": name}, claims, secret),
        "for another audience": issuer.token(groups=["ops"], models=["*"], aud="web"),
        "of another issuer": issuer.token(groups=["ops"], models=["*"], iss="http://127.0.0.1:1"),
        "expired": issuer.token(groups=["ops"], models=["*"], seconds=-60),
        "of an unknown key": issuer.token(groups=["ops"], models=["*"], header={"kid": "made-up"}),
        "no token": "a.b.c",
        "nothing": "",
    }


def test_tokens_open_both_doors_as_their_claims_say_and_nothing_else_does(project: Project, issuer: LittleIssuer):
    (project.folder / "rung.toml").write_text(SETTINGS.format(issuer=issuer.url))
    project.up()
    infer = f"{project.url}/v2/models/tiny/infer"

    def ask(token: str) -> httpx2.Response:
        return httpx2.post(infer, content=ROWS, headers=bearer(token), timeout=PATIENCE)

    def control(method: str, path: str, token: str, **more: object) -> httpx2.Response:
        return httpx2.request(method, f"{project.control}{path}", headers=bearer(token), timeout=PATIENCE, **more)

    user = issuer.token(groups=["staff", "users"], models=["t*"], email="ana@example.com")
    operator = issuer.token("ben", groups=["users", "ops"], models=["*"], email="ben@example.com")
    eventually(lambda: ask(user).status_code == 200)
    assert control("GET", "/models", operator).status_code == 200
    assert control("GET", "/models", user).status_code == 403
    assert ask(issuer.token(groups=["users"], models=["spam"])).status_code == 403
    assert ask(issuer.token(groups=["strangers"], models=["*"])).status_code == 403
    for what, token in hostile(issuer).items():
        for reply in (ask(token), control("GET", "/models", token), control("POST", "/replicas", token)):
            assert reply.status_code == 401, (what, reply.text)
            assert reply.headers["www-authenticate"] == "Bearer", what
    # A key of ours does as well as ever.
    own = key(project.folder, "web")
    eventually(lambda: ask(own).status_code == 200)

    # The issuer signs with another key, and takes the old one back.
    issuer.rotate("ES256", keep=False)
    renewed = issuer.token("ben", groups=["ops"], models=["*"], email="ben@example.com")
    eventually(lambda: ask(renewed).status_code == control("GET", "/models", renewed).status_code == 200)
    eventually(lambda: ask(operator).status_code == control("GET", "/models", operator).status_code == 401)
    # While it is away, what is known goes on counting.
    issuer.away = True
    assert ask(renewed).status_code == 200

    # Replicas by the API: as many as said, each found by a scraper, and whose word it was is written down.
    shown = control("POST", "/replicas", renewed, json={"replicas": 2})
    assert (shown.status_code, shown.json()["wanted"], shown.json()["by_hand"]) == (200, 2, True)
    project.until(lambda: len(control("GET", "/sd", renewed).json()) == 2)
    for target in control("GET", "/sd", renewed).json():
        page = httpx2.get(f"http://{target['targets'][0]}/metrics", timeout=PATIENCE)
        assert "rung_ready 1.0" in page.text
    assert control("POST", "/replicas/restart", renewed, json={}).status_code == 200
    assert "all replicas are replaced" in project.log
    audit = json.loads(project.rung("audit", "--json").stdout)
    done = [(line["by"], line["role"], line["what"]) for line in audit if line["outcome"] == "done"]
    assert ("ben@example.com", "operator", "POST /replicas") in done
    assert "ben@example.com" in project.state()["why"]
