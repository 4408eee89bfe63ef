import os
from pathlib import Path

import pytest

from rung.store.folders import sync_folder

OPEN = Path("/proc/self/fd")


def test_the_folder_itself_is_synced_and_let_go(tmp_path, monkeypatch):
    synced = []
    real = os.fsync

    def fsync(descriptor):
        synced.append(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    before = len(list(OPEN.iterdir()))
    sync_folder(tmp_path)
    assert synced == [tmp_path.stat().st_ino]
    assert len(list(OPEN.iterdir())) == before


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(NotADirectoryError):
        sync_folder(tmp_path / "a")
