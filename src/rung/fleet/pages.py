"""Pages that the processes of a project show on their ports."""

import http.client
import ssl
from urllib.parse import urlsplit

__all__ = ["connect", "fetch", "read"]

_PATIENCE = 2.0
"""Seconds that a process gets to answer."""


def fetch(url: str, path: str) -> bytes:
    """What a process of the project answers, whatever the status.

    Raises:
        OSError: it does not, within two seconds.
    """
    connection = connect(url)
    try:
        return read(connection, path)
    except http.client.HTTPException as error:
        raise OSError(str(error) or type(error).__name__) from None
    finally:
        connection.close()


def connect(url: str) -> http.client.HTTPConnection:
    """A connection for several pages, which whoever asked for it closes. It is made at the first page."""
    address = urlsplit(url)
    if address.scheme == "https":
        # Nothing secret is sent, and a certificate is made for the name that others know this machine by.
        trusting = ssl._create_unverified_context()  # noqa: S323
        return http.client.HTTPSConnection(address.hostname or "", address.port, timeout=_PATIENCE, context=trusting)
    return http.client.HTTPConnection(address.hostname or "", address.port, timeout=_PATIENCE)


def read(connection: http.client.HTTPConnection, path: str) -> bytes:
    """One page.

    Raises:
        OSError, http.client.HTTPException: there is no answer.
    """
    connection.request("GET", path)
    return connection.getresponse().read()
