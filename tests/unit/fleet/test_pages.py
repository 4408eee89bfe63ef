import socket

import pytest

from rung.fleet.pages import fetch


def test_what_does_not_answer_or_speaks_something_else_is_an_oserror() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(OSError, match="refused"):
            fetch(url, "/livez")


def test_who_says_nothing_is_waited_for_two_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(OSError, match="timed out"):
        fetch(f"http://127.0.0.1:{silent.getsockname()[1]}", "/livez")
