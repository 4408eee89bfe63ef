"""The protocol's own document, as served, against the server: it answers as it says, and nothing is a 500."""

import warnings

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings

from rung.testing import models

with warnings.catch_warnings():
    # Deprecations inside the tool are not ours to mend.
    warnings.simplefilter("ignore")
    import requests
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.specs.openapi.checks import positive_data_acceptance


def bounded(operation):
    """So many examples, the same every time; most for what reads most."""
    return settings(
        max_examples=50 if operation.path.endswith("/infer") else 10,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )


@pytest.fixture
def document(serve, tmp_path):
    """(URL, the served document with the loaded model pinned)."""
    served = serve(models.add_sub(tmp_path / "simple.onnx"))
    document = httpx2.get(f"{served.url}/v2/openapi.json").json()
    parameters = document["components"]["parameters"]
    parameters["Model"]["schema"] = {"type": "string", "enum": ["simple"]}
    parameters["Version"]["schema"] = {"type": "integer", "enum": [1]}
    return served.url, document


def operations(document):
    return [result.ok() for result in schemathesis.openapi.from_dict(document).get_all_operations()]


@pytest.mark.filterwarnings("ignore")
def test_requests_that_fit_are_answered_as_the_document_says(document):
    url, raw = document
    with requests.Session() as session:
        for operation in operations(raw):

            @bounded(operation)
            @given(case=operation.as_strategy())
            def answered(case):
                # Which tensors a model takes is not for the protocol's document to say.
                excluded = [positive_data_acceptance]
                case.call_and_validate(base_url=url, session=session, excluded_checks=excluded)

            answered()


@pytest.mark.filterwarnings("ignore")
def test_requests_that_do_not_fit_are_never_a_server_error(document):
    url, raw = document
    with requests.Session() as session:
        for operation in operations(raw):
            if not operation.path_parameters and not operation.body and not operation.headers and not operation.query:
                continue

            @bounded(operation)
            @given(case=operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
            def refused(case):
                reply = case.call(base_url=url, session=session)
                assert reply.status_code < 500, (reply.status_code, reply.text, case.as_curl_command())

            refused()
    assert httpx2.get(f"{url}/readyz").status_code == 200


def test_the_document_names_every_route_of_the_protocol(document):
    url, raw = document
    for path, methods in raw["paths"].items():
        concrete = path.replace("{model}", "simple").replace("{version}", "1")
        for method in ("get", "post", "put"):
            status = httpx2.request(method, url + concrete).status_code
            assert (status == 405) == (method not in methods), (method, concrete, status)
