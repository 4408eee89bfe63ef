import warnings

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from openapi_spec_validator import validate
from structlog.testing import capture_logs

from rung.domain.errors import NotReady
from rung.fleet.loop import PartHealth

with warnings.catch_warnings():
    # Deprecations inside the tool are not ours to mend.
    warnings.simplefilter("ignore")
    import requests
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.specs.openapi.checks import positive_data_acceptance


def bounded(examples):
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )


def test_the_document_is_openapi_and_says_what_everything_is(api):
    document = api.get("/openapi.json").json()

    validate(document)
    operations = [one for path in document["paths"].values() for one in path.values()]
    assert len(operations) >= 18
    assert all(one["tags"] and one["description"] and "default" in one["responses"] for one in operations)
    assert not any("422" in one["responses"] for one in operations)
    described = {tag["name"] for tag in document["tags"]}
    assert {tag for one in operations for tag in one["tags"]} == described


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("examples", [3, pytest.param(100, marks=[pytest.mark.nightly, pytest.mark.timeout(1200)])])
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_nothing_is_a_server_error_and_answers_are_as_described(api, mode, examples):
    document = api.get("/openapi.json").json()
    document["paths"] = _pinned(document["paths"])
    with requests.Session() as session:
        for result in schemathesis.openapi.from_dict(document).get_all_operations():
            operation = result.ok()
            if mode is GenerationMode.NEGATIVE and not (operation.path_parameters or operation.body or operation.query):
                continue

            @bounded(examples)
            @given(case=operation.as_strategy(generation_mode=mode))
            def fuzzed(case):
                url = str(api.base_url)
                if mode is GenerationMode.POSITIVE:
                    # Whether a version exists, or a move is possible now, is not for the document to say.
                    case.call_and_validate(base_url=url, session=session, excluded_checks=[positive_data_acceptance])
                else:
                    reply = case.call(base_url=url, session=session)
                    assert reply.status_code < 500, (reply.status_code, reply.text, case.as_curl_command())

            fuzzed()
    assert api.get("/readyz").status_code == 200


def _pinned(paths):
    """Names that exist, so that more than refusals is seen."""
    for path in paths.values():
        for operation in path.values():
            for parameter in operation.get("parameters", []):
                if parameter["name"] == "model":
                    parameter["schema"] = {"type": "string", "enum": ["tiny"]}
    return paths


def test_errors_have_one_shape_and_the_doors_numbers(api):
    refused = {
        "/nothing": 404,
        "/models/none": 404,
        "/models/Bad%20Name": 400,
        "/models/tiny/versions/9": 404,
        "/models/tiny/versions/0": 400,
        "/models/tiny/versions/x": 400,
        "/models/none/releases": 404,
        "/models/tiny/releases?at=2026-01-01T00:00:00": 400,
        "/jobs/1": 404,
        "/jobs?limit=0": 400,
    }
    for path, status in refused.items():
        reply = api.get(path)
        assert (path, reply.status_code, list(reply.json())) == (path, status, ["error"])
    assert api.delete("/models").status_code == 405
    assert api.post("/jobs", json={"kind": "unknown"}).status_code == 400
    assert "at most" in api.post("/jobs", content=b"x" * (2 << 20)).json()["error"]


def test_an_unexpected_error_stays_inside(open_api, services):
    def status():
        raise ValueError("geheim")

    api = open_api(msgspec.structs.replace(services, status=status))
    with capture_logs() as logs:
        reply = api.get("/status")

    assert [(line["action"], str(line["exc_info"])) for line in logs] == [("request_failed", "geheim")]
    assert reply.status_code == 500
    assert "geheim" not in reply.text
    assert list(reply.json()) == ["error"]


def test_readiness_names_the_part_that_fails(open_api, services):
    ill = PartHealth(name="rollouts", failures=3, error="the repository is away")
    api = open_api(msgspec.structs.replace(services, parts=lambda: [ill]))

    reply = api.get("/readyz")
    assert (reply.status_code, reply.json()) == (503, {"error": "rollouts: the repository is away"})
    assert api.get("/healthz").json() == {"live": True}


def test_a_database_that_is_away_is_503(open_api, services):
    class Away:
        def find(self, **_: object) -> None:
            raise NotReady("the database is locked")

    reply = open_api(msgspec.structs.replace(services, jobs=Away())).get("/jobs")
    assert (reply.status_code, reply.json()["error"]) == (503, "the database is locked")
