import pytest

from rung.domain.errors import InvalidInput
from rung.protocols.exchange import Head
from rung.protocols.sagemaker import asks, read_model


def test_a_model_to_add() -> None:
    assert read_model(b'{"model_name": "a", "url": "/opt/ml/models/a/model"}') == ("a", "/opt/ml/models/a/model")


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff", b'{"model_name": 1, "url": "x"}'])
def test_no_model(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        read_model(body)


def test_who_asks() -> None:
    assert asks(Head("GET", "/models/a", "", {b"x-amzn-sagemaker-target-model": b"a"}))
    assert not asks(Head("GET", "/models/a", "", {b"host": b"a"}))
