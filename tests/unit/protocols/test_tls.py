"""Certificates: checked before they are used, and read again when they change."""

import os
import shutil
import socket
import ssl
import threading
from pathlib import Path

import pytest

from rung.domain.errors import ConfigurationError
from rung.protocols.tls import Certificate, expires_at

FILES = Path(__file__).parents[2] / "certificates"
NOW = 1.8e9


@pytest.fixture
def place(tmp_path):
    """`place("first")`: put that certificate where the door looks for one."""
    target = tmp_path / "server.pem"

    def put(name: str) -> Path:
        before = target.stat().st_mtime_ns if target.exists() else 0
        shutil.copy(FILES / f"{name}.pem", target)
        # As if it were later, however coarse the clock of the file system is.
        os.utime(target, ns=(before + 10**9, before + 10**9))
        return target

    return put


def served(certificate: Certificate) -> bytes:
    """The certificate that a client is shown now."""
    ours, theirs = socket.socketpair()
    client = ssl.create_default_context()
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE

    def serve() -> None:
        with certificate.context.wrap_socket(theirs, server_side=True) as end:
            end.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    with client.wrap_socket(ours) as end:
        found = end.getpeercert(binary_form=True)
        assert end.selected_alpn_protocol() is None
        end.send(b"x")
    thread.join()
    return found


def der(name: str) -> bytes:
    text = (FILES / f"{name}.pem").read_text()
    return ssl.PEM_cert_to_DER_cert(text[: text.index("-----END CERTIFICATE-----")] + "-----END CERTIFICATE-----\n")


def test_a_certificate_is_used_and_a_new_one_takes_its_place_in_the_same_context(place):
    certificate = Certificate(str(place("first")))
    certificate.open(NOW)
    context = certificate.context
    assert served(certificate) == der("first")
    assert not certificate.reload(NOW)

    place("second")
    assert certificate.reload(NOW)
    assert certificate.context is context
    assert served(certificate) == der("second")


def test_what_cannot_be_used_leaves_the_old_one_in_use_and_is_told_once(place):
    certificate = Certificate(str(place("first")))
    certificate.open(NOW)

    place("expired")
    with pytest.raises(ConfigurationError, match="expired at 2020-01-01"):
        certificate.reload(NOW)
    assert not certificate.reload(NOW)
    assert served(certificate) == der("first")
    place("second")
    assert certificate.reload(NOW)


@pytest.mark.parametrize(
    ("certificate", "key", "said"),
    [
        ("nothing", "", "tls_certificate: .*nothing.pem cannot be read: No such file"),
        ("first", "nothing", "tls_key: .*nothing.pem cannot be read: No such file"),
        ("first", "second", "tls_key: .*second.pem is not the key of the certificate .*first.pem"),
        ("expired", "", "expired at 2020-01-01 00:00:00.* get a new one"),
        ("locked", "", "tls_key: .*locked.pem is encrypted: write it without a pass phrase"),
        ("empty", "", "tls_certificate: there is no certificate in .*empty.pem"),
        ("bare", "", "tls_key: there is no private key in the same file as the certificate"),
        ("broken", "", "tls_certificate: the certificate in .*broken.pem cannot be read"),
    ],
)
def test_every_slip_is_told_with_its_file(tmp_path, certificate, key, said):
    for name in ("first", "second", "expired", "locked"):
        shutil.copy(FILES / f"{name}.pem", tmp_path)
    whole = (FILES / "first.pem").read_text()
    (tmp_path / "empty.pem").touch()
    (tmp_path / "bare.pem").write_text(whole.partition("-----BEGIN PRIVATE KEY")[0])
    (tmp_path / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(ConfigurationError, match=said):
        Certificate(*(str(tmp_path / f"{name}.pem") if name else "" for name in (certificate, key))).open(NOW)


def test_the_end_of_a_certificate_is_read_in_both_forms():
    assert expires_at(der("second")) == 2366841600.0  # 2045, two digits
    assert expires_at(der("first")) == 4733510400.0  # 2120, four
    for cut in range(0, 200, 7):
        with pytest.raises((ValueError, IndexError)):
            expires_at(der("first")[:cut])
