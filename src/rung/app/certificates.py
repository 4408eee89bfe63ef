"""The certificate of a door: opened when it starts, and read again while it stands."""

from collections.abc import Callable
from time import time

import structlog

from rung.domain.errors import ConfigurationError
from rung.protocols.tls import Certificate

__all__ = ["open_certificate", "reread"]


def open_certificate(certificate: str, key: str) -> Certificate | None:
    """The certificate that settings name; None where they name none.

    Raises:
        ConfigurationError: it cannot be used, or a key is named alone.
    """
    if not certificate:
        if key:
            raise ConfigurationError("tls_key without tls_certificate: name the file of the certificate as well")
        return None
    found = Certificate(certificate, key)
    found.open(time())
    return found


def reread(certificate: Certificate, use: Callable[[], object] | None = None) -> None:
    """Use the files of a certificate anew if they have changed; say so, or why not.

    `use` hands them to whoever greets callers where that is not this process; it may raise OSError.
    """
    log = structlog.get_logger("rung.access")
    try:
        if certificate.reload(time()):
            if use is not None:
                use()
            log.info("the certificate was read again", action="certificate", expires=certificate.expires)
    except (ConfigurationError, OSError) as error:
        log.warning("the old certificate stays in use", action="certificate", reason=str(error))
