import multiprocessing

import pytest

from rung.domain.errors import ConfigurationError
from rung.store.keys import load_key


def test_a_key_is_made_once_and_belongs_to_its_owner(tmp_path):
    path = tmp_path / "keys" / "prediction.key"
    key = load_key(path)
    assert len(key) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_key(path) == key
    assert [one.name for one in path.parent.iterdir()] == ["prediction.key"]


def test_processes_that_make_it_at_once_get_the_same(tmp_path):
    path = tmp_path / "keys" / "prediction.key"
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        keys = pool.map(load_key, [path] * 16, chunksize=1)
    assert len(set(keys)) == 1
    assert [one.name for one in path.parent.iterdir()] == ["prediction.key"]


def test_a_key_that_others_may_read_is_refused(tmp_path):
    path = tmp_path / "prediction.key"
    load_key(path)
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        load_key(path)


def test_a_file_that_is_no_key_is_refused(tmp_path):
    path = tmp_path / "prediction.key"
    path.write_bytes(b"short")
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match="holds 5 bytes"):
        load_key(path)


def test_a_place_that_cannot_be_written_is_a_wrong_setting(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_key(tmp_path / "file" / "prediction.key")
