"""A certificate is opened, and taken up again when its files change."""

import shutil
from pathlib import Path

import pytest

from rung.app.certificates import open_certificate, reread
from rung.domain.errors import ConfigurationError

CERTIFICATES = Path(__file__).parents[2] / "certificates"


def test_a_key_of_a_certificate_goes_with_one():
    assert open_certificate("", "") is None
    with pytest.raises(ConfigurationError, match="tls_key without tls_certificate"):
        open_certificate("", "server.key")


def test_it_is_handed_on_once_for_each_edition_and_never_when_it_cannot_be_used(tmp_path):
    place, used = tmp_path / "server.pem", []
    shutil.copy(CERTIFICATES / "first.pem", place)
    certificate = open_certificate(str(place), "")

    reread(certificate, lambda: used.append("first"))
    shutil.copy(CERTIFICATES / "second.pem", place)
    for _ in range(2):
        reread(certificate, lambda: used.append("second"))
    place.write_text("this is none")
    reread(certificate, lambda: used.append("third"))
    assert used == ["second"]


def test_one_that_nobody_takes_ends_nothing(tmp_path):
    place = tmp_path / "server.pem"
    shutil.copy(CERTIFICATES / "first.pem", place)
    certificate = open_certificate(str(place), "")
    shutil.copy(CERTIFICATES / "second.pem", place)

    def refuse() -> None:
        raise OSError("HAProxy does not answer")

    reread(certificate, refuse)
