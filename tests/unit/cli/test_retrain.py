import pytest

from rung.cli.retrain import retrains
from rung.domain.errors import NotFound
from rung.domain.retraining import Request
from rung.loop import requests
from rung.store.blobs import open_store


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Where retrainings of a project lie that has the model `line`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rung.toml").write_text('[project]\nname = "x"\n\n[models.line]\ntrain = "model:train"\n')
    return open_store(".rung/data")


def test_a_name_that_is_not_there_is_named_with_the_nearest(data):
    with pytest.raises(NotFound, match=r"no model 'lin' in rung\.toml; did you mean line"):
        retrains("lin", None, as_json=False)


def test_what_was_done_with_a_model_that_is_gone_can_still_be_read(data, capsys):
    requests.ask(data, "old", Request("manual", "1", "new prices", 1.0, "ana"))
    retrains("old", None, as_json=False)
    assert "new prices" in capsys.readouterr().out


def test_a_model_that_was_never_trained_anew(data, capsys):
    retrains("line", None, as_json=False)
    assert "rung retrain line asks for it" in capsys.readouterr().out
