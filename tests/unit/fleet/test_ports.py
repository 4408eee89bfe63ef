import socket

import pytest

from rung.domain.errors import ConfigurationError
from rung.fleet.ports import check_exposure, reserve, url
from rung.settings import OidcSettings, ProjectSettings, ServeSettings
from rung.settings.project import ControlSettings


def test_a_held_port_is_ours_to_share_and_nobody_elses():
    with reserve("127.0.0.1", 0, "--port") as held, socket.socket() as replica:
        port = held.getsockname()[1]
        replica.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        replica.bind(("127.0.0.1", port))
        replica.listen()
        with socket.create_connection(("127.0.0.1", port), 5):
            replica.accept()[0].close()  # never given to the socket that only holds the port
        with pytest.raises(ConfigurationError, match=rf"cannot listen on 127.0.0.1:{port}: .* --port"):
            reserve("127.0.0.1", port, "--port")


@pytest.mark.parametrize("host", ["203.0.113.1", "no such host", "a" * 300])
def test_an_address_that_is_not_ours_is_refused(host):
    with pytest.raises(ConfigurationError, match="--host"):
        reserve(host, 0, "--port")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine_needs_no_key(host):
    check_exposure(ProjectSettings(serve=ServeSettings(host=host), control=ControlSettings(host=host)))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.org", ""])
@pytest.mark.parametrize("door", ["serve", "control"])
def test_others_do(host, door):
    kind = ServeSettings if door == "serve" else ControlSettings
    settings = ProjectSettings(**{door: kind(host=host)})
    if (host, door) == ("", "control"):
        check_exposure(settings)  # as the data door's
        return
    with pytest.raises(ConfigurationError, match="RUNG_CONTROL_KEY"):
        check_exposure(settings)
    control = ControlSettings(host=settings.control.host, keys=("k" * 16,))
    check_exposure(ProjectSettings(serve=settings.serve, control=control))


def test_where_tokens_are_taken_no_door_is_open():
    oidc = OidcSettings(issuer="https://id.example", audience=("rung",))
    check_exposure(ProjectSettings(serve=ServeSettings(host="0.0.0.0", oidc=oidc)))


def test_urls():
    assert url("127.0.0.1", 1) == "http://127.0.0.1:1"
    assert url("::1", 1) == "http://[::1]:1"
