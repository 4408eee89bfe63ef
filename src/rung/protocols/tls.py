"""The certificate of a door: read, checked before it is used, and read again when its files change."""

import base64
import re
import ssl
from datetime import UTC, datetime
from pathlib import Path

from rung.domain.errors import ConfigurationError

__all__ = ["Certificate", "expires_at"]

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _VERSION, _UTC_TIME, _GENERAL_TIME = 0x30, 0xA0, 0x17, 0x18


class Certificate:
    """A certificate with its key. `context` stays the same object when they are read again: connections made from
    then on get the new ones.
    """

    def __init__(self, certificate: str, key: str = "") -> None:
        self._certificate = Path(certificate)
        self._key = Path(key) if key else self._certificate
        self._state: tuple[tuple[int, int], ...] = ()
        self.expires = 0.0
        """Seconds since the epoch."""
        self.context: ssl.SSLContext

    def open(self, now: float) -> None:
        """Read and check both files.

        Raises:
            ConfigurationError: a file is missing or holds something else, the key is not that of the certificate, or
                the certificate has expired.
        """
        context = self._checked(now)
        self._state = self._states()
        self.context = context

    def reload(self, now: float) -> bool:
        """Read the files again if they have changed; whether they had. What cannot be used is not: the old one stays.

        Raises:
            ConfigurationError: as `open` does.
        """
        state = self._states()
        if state == self._state:
            return False
        self._state = state
        self._checked(now)
        # Loaded into the context that is in use, once a fresh one has taken it.
        self.context.load_cert_chain(self._certificate, self._key)
        return True

    def _checked(self, now: float) -> ssl.SSLContext:
        for path, what in ((self._certificate, "tls_certificate"), (self._key, "tls_key")):
            try:
                data = path.read_bytes()
            except OSError as error:
                raise ConfigurationError(f"{what}: {path} cannot be read: {error.strerror}") from None
            if what == "tls_certificate":
                self.expires = _expiry(data, path)
            elif b"PRIVATE KEY-----" not in data:
                where = "the same file as the certificate" if path == self._certificate else str(path)
                raise ConfigurationError(
                    f"tls_key: there is no private key in {where}: name the PEM file that holds it"
                )
        if self.expires <= now:
            when = datetime.fromtimestamp(self.expires, UTC).isoformat(" ", "seconds")
            raise ConfigurationError(f"tls_certificate: {self._certificate} expired at {when}: get a new one")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._certificate, self._key, password=_no_password)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise ConfigurationError(
                    f"tls_key: {self._key} is not the key of the certificate {self._certificate}"
                ) from None
            raise ConfigurationError(f"tls_key: {self._key} cannot be used: {error.reason or error}") from None
        except ConfigurationError:
            raise ConfigurationError(f"tls_key: {self._key} is encrypted: write it without a pass phrase") from None
        return context

    def _states(self) -> tuple[tuple[int, int], ...]:
        found = []
        for path in (self._certificate, self._key):
            try:
                status = path.stat()
            except OSError:
                found.append((0, 0))
            else:
                found.append((status.st_mtime_ns, status.st_size))
        return tuple(found)


def _no_password() -> str:
    # OpenSSL would ask the terminal.
    raise ConfigurationError


def _expiry(data: bytes, path: Path) -> float:
    found = _PEM.search(data)
    if found is None:
        raise ConfigurationError(f"tls_certificate: there is no certificate in {path}: it must be a PEM file")
    try:
        return expires_at(base64.b64decode(found[1]))
    except (ValueError, IndexError):
        raise ConfigurationError(f"tls_certificate: the certificate in {path} cannot be read") from None


def expires_at(der: bytes) -> float:
    """When a certificate (X.509, DER) expires, in seconds since the epoch.

    Raises:
        ValueError, IndexError: it is none.
    """
    # Certificate > TBSCertificate > version?, serial, algorithm, issuer, validity > not before, not after (RFC 5280).
    _, _, body = _element(der)
    _, _, body = _element(body)
    if body[0] == _VERSION:
        body = body[_element(body)[1] :]
    for _ in range(3):
        body = body[_element(body)[1] :]
    tag, _, validity = _element(body)
    if tag != _SEQUENCE:
        raise ValueError("this is no certificate")
    kind, _, text = _element(validity[_element(validity)[1] :])
    if kind not in (_UTC_TIME, _GENERAL_TIME):
        raise ValueError("this is no time")
    digits = text.decode("ascii").removesuffix("Z")
    if kind == _UTC_TIME:
        # Years of two digits mean 1950 to 2049.
        digits = ("19" if digits[0] >= "5" else "20") + digits
    return datetime.strptime(digits, "%Y%m%d%H%M%S").replace(tzinfo=UTC).timestamp()


def _element(data: bytes) -> tuple[int, int, bytes]:
    """Tag, whole length, and content of the first element."""
    tag, length, start = data[0], data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start], "big")
    if start + length > len(data):
        raise ValueError("an element is cut off")
    return tag, start + length, data[start : start + length]
