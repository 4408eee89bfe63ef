import msgspec
import pytest

KEY = "a-key-that-nobody-guesses"


def test_with_keys_every_path_but_the_probes_wants_one(open_api, services):
    api = open_api(msgspec.structs.replace(services, keys=("another-key-of-theirs", KEY)))

    for path in ("/models", "/status", "/openapi.json", "/nothing"):
        for header in ({}, {"authorization": f"Bearer {KEY}x"}, {"authorization": f"Basic {KEY}"}):
            reply = api.get(path, headers=header)
            assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
            assert "Bearer KEY" in reply.json()["error"]
    assert api.get("/models", headers={"authorization": f"bearer {KEY}"}).status_code == 200
    assert api.get("/healthz").status_code == 200
    assert api.get("/readyz").status_code == 200
    # Who has a key may come under any name: a proxy may stand between.
    assert api.get("/models", headers={"authorization": f"Bearer {KEY}", "host": "example.org"}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:8080"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example:8080"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "localhost:8080", "origin": "http://localhost:8080"}, 200),
        ({"host": "localhost:8080", "origin": "http://localhost:9090"}, 403),
    ],
)
def test_without_keys_a_web_page_is_kept_out(api, headers, status):
    assert api.get("/models", headers=headers).status_code == status


def test_a_form_of_a_web_page_moves_nothing(api):
    reply = api.post("/models/tiny/release", content='{"version": 1}', headers={"content-type": "text/plain"})

    assert reply.status_code == 400
    assert api.get("/releases").json() == []


def test_a_body_without_a_length_is_cut_off(api):
    def chunks():
        for _ in range(40):
            yield b" " * (64 << 10)

    assert api.post("/jobs", content=chunks()).status_code == 413
