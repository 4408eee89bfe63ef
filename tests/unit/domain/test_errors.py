import inspect

import pytest

from rung.domain import errors
from rung.domain.errors import ClientError, InvalidInput, ModelError, OperatorError, Overloaded, RungError, WorkerDied

ALL = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_an_error_without_words_says_its_docstring(kind):
    assert str(kind()) == inspect.getdoc(kind)
    assert str(kind("words")) == "words"
    assert issubclass(kind, RungError)


def test_who_has_to_act():
    assert issubclass(InvalidInput, ClientError)
    assert issubclass(WorkerDied, ModelError)
    assert not issubclass(ModelError, ClientError | OperatorError)


def test_what_errors_carry():
    assert InvalidInput("no", field="x").field == "x"
    assert InvalidInput().field is None
    assert Overloaded("later", retry_after=2.5).retry_after == 2.5
