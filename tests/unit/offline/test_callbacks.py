import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import msgspec
import pytest

from rung.domain.errors import ConfigurationError, NotFound, NotReady
from rung.domain.inference import NewItem, NewRequest
from rung.offline.callbacks import call
from rung.settings.offline import OfflineSection

SECRET = "0123456789abcdef"


@pytest.fixture
def hook():
    seen: list[Any] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append((dict(self.headers), self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(int(self.path.strip("/")))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", seen
    server.shutdown()
    server.server_close()
    thread.join()


def ended(bench, callback: str) -> str:
    new = NewRequest(model="tiny", items=(NewItem(b"[1]", "application/json"),), callback=callback)
    request = bench.requests.accept(new).id
    bench.requests.cancel(request, "a slip")
    return request


def test_the_end_is_told_signed_and_without_answers(bench, hook):
    url, seen = hook
    request = ended(bench, f"{url}/204")
    section = OfflineSection(callback_secret=SECRET, allow_private=True)
    assert call(section, bench.database, request, "d") == {"request": request, "status": 204}
    [(headers, body)] = seen
    assert headers["rung-delivery"] == "d"
    assert headers["rung-signature"].startswith("sha256=")
    told = msgspec.json.decode(body)
    assert (told["id"], told["state"], told["counts"]) == (request, "cancelled", {"cancelled": 1})


def test_what_does_not_take_it_is_told_again_by_the_job(bench, hook):
    url, _ = hook
    request = ended(bench, f"{url}/500")
    with pytest.raises(NotReady, match="answered 500"):
        call(OfflineSection(callback_secret=SECRET, allow_private=True), bench.database, request, "d")


def test_nobody_reaches_this_machine_by_a_callback(bench, hook):
    url, seen = hook
    request = ended(bench, f"{url}/204")
    with pytest.raises(ConfigurationError, match=r"\[offline\].*allow_private"):
        call(OfflineSection(callback_secret=SECRET), bench.database, request, "d")
    with pytest.raises(ConfigurationError, match="callback_secret"):
        call(OfflineSection(), bench.database, request, "d")
    with pytest.raises(NotFound):
        call(OfflineSection(callback_secret=SECRET), bench.database, "0" * 23, "d")
    assert seen == []
