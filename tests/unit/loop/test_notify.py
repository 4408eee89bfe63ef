import base64
import hashlib
import hmac
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email import message_from_string, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rung.domain.alerts import Alert, Notice
from rung.domain.errors import ConfigurationError, NotReady
from rung.jobs import webhook
from rung.loop import notify
from rung.loop.alert_store import jobs_of
from rung.settings.alerts import AlertsSection

SECRET = "0123456789abcdef"
ALERT = Alert(rule="disk", labels={"place": "<!here>"}, status="firing", says="only 1 % is free\nat <!here>", fired=5)
NOTICE = Notice(what="fired", cause="disk", severity="critical", alerts=(ALERT,))


def arguments(channel: str) -> Any:
    return jobs_of(NOTICE, [channel], 1.8e9)[0].arguments


class Hook(BaseHTTPRequestHandler):
    """Keeps what it is sent; the path says what it answers."""

    seen: list[tuple[dict[str, str], bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        type(self).seen.append(({name.lower(): value for name, value in self.headers.items()}, body))
        status = int(self.path.strip("/"))
        self.send_response(status)
        if status == 302:
            self.send_header("location", "/200")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def running(server: socketserver.BaseServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]  # type: ignore[misc]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def hook() -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    kind = type("OwnHook", (Hook,), {"seen": []})
    with running(ThreadingHTTPServer(("127.0.0.1", 0), kind)) as port:
        yield f"http://127.0.0.1:{port}", kind.seen  # type: ignore[attr-defined]


def test_a_webhook_is_signed_so_that_its_receiver_can_check(hook: Any) -> None:
    url, seen = hook
    section = AlertsSection(webhook=f"{url}/200", webhook_secret=SECRET, allow_private=True)
    assert notify.send(section, arguments("webhook"), "d1") == {"channel": "webhook", "status": 200}
    [(headers, body)] = seen
    signed = headers["rung-timestamp"].encode() + b"." + body
    assert headers["rung-signature"] == "sha256=" + hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    assert headers["rung-delivery"] == "d1"
    told = msgspec.json.decode(body)
    assert (told["what"], told["alerts"][0]["id"], told["alerts"][0]["rule"]) == ("fired", ALERT.id, "disk")


def test_slack_cannot_be_made_to_mention_everybody(hook: Any) -> None:
    url, seen = hook
    notify.send(AlertsSection(slack=f"{url}/200", allow_private=True), arguments("slack"), "d1")
    [(headers, body)] = seen
    told = msgspec.json.decode(body)
    assert told["text"] == "critical: only 1 % is free\nat &lt;!here&gt;"
    assert b"<" not in body
    assert told["blocks"][0]["text"]["type"] == "mrkdwn"
    assert "rung-signature" not in headers


@pytest.mark.parametrize(("status", "why"), [(500, "answered 500"), (404, "404"), (302, "redirects are not followed")])
def test_what_is_not_taken_is_tried_again_by_its_job(hook: Any, status: int, why: str) -> None:
    url, seen = hook
    with pytest.raises(NotReady, match=why) as raised:
        notify.send(AlertsSection(webhook=f"{url}/{status}", allow_private=True), arguments("webhook"), "d1")
    assert len(seen) == 1
    assert f"/{status}" not in str(raised.value)


def test_a_webhook_that_never_answers_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "_PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(NotReady, match=r"not answered in 0.2 seconds|timed out"):
            notify.send(AlertsSection(webhook=url, allow_private=True), arguments("webhook"), "d1")


def test_one_that_answers_byte_by_byte_does_so_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "_PATIENCE", 0.5)

    class Drip(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                while True:
                    self.request.sendall(b"H")
                    over.wait(0.05)

    over = threading.Event()
    with running(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Drip)) as port:
        section = AlertsSection(webhook=f"http://127.0.0.1:{port}/", allow_private=True)
        with pytest.raises(NotReady, match=r"not answered in 0.5 seconds"):
            notify.send(section, arguments("webhook"), "d1")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f.1"])
def test_this_machine_is_not_reached_by_any_spelling(hook: Any, host: str) -> None:
    url, seen = hook
    port = url.rpartition(":")[2]
    with pytest.raises(ConfigurationError, match="allow_private"):
        notify.send(AlertsSection(webhook=f"http://{host}:{port}/200"), arguments("webhook"), "d1")
    assert seen == []


def test_it_goes_to_the_address_that_was_checked(hook: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that resolves to something else the second time is never resolved a second time."""
    url, seen = hook
    port = int(url.rpartition(":")[2])
    looks = []
    real = socket.getaddrinfo

    def resolve(host: Any, *given: Any, **named: Any) -> Any:
        looks.append(host)
        return real("127.0.0.1" if host == "hook.example" else host, *given, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    notify.send(AlertsSection(webhook=f"http://hook.example:{port}/200", allow_private=True), arguments("webhook"), "d")
    assert looks.count("hook.example") == 1
    assert seen[0][0]["host"] == f"hook.example:{port}"


CERTIFICATES = Path(__file__).parents[2] / "certificates"


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine trusts `first.pem`, and nobody else."""
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATES / "first.pem"))


def greeting(name: str) -> ssl.SSLContext:
    """How a server shows a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / name)
    return context


@contextmanager
def secure_hook(certificate: str) -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    kind = type("OwnHook", (Hook,), {"seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    # The handshake belongs to a connection's own thread: one that fails must not end the loop that accepts.
    server.socket = greeting(certificate).wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    with running(server) as port:
        yield f"https://localhost:{port}", kind.seen  # type: ignore[attr-defined]


@pytest.mark.usefixtures("trusted")
def test_a_webhook_is_told_in_secret() -> None:
    with secure_hook("first.pem") as (url, seen):
        section = AlertsSection(webhook=f"{url}/200", allow_private=True)
        assert notify.send(section, arguments("webhook"), "d1") == {"channel": "webhook", "status": 200}
    assert seen[0][0]["host"] == url.removeprefix("https://")


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("certificate", ["second.pem", "expired.pem"])
def test_nobody_with_another_certificate_is_told(certificate: str) -> None:
    with secure_hook(certificate) as (url, seen):
        with pytest.raises(NotReady, match="certificate"):
            notify.send(AlertsSection(webhook=f"{url}/200", allow_private=True), arguments("webhook"), "d1")
        assert seen == []


class Mail(socketserver.StreamRequestHandler):
    """As much SMTP as it takes to be sent a message."""

    seen: list[str]
    refuses = False
    certificate = ""
    """Shown after STARTTLS; empty: none is offered."""
    said: list[str]
    """What was said after it."""

    def handle(self) -> None:
        self.say("220 here")
        secret = False
        while line := self.rfile.readline().decode().strip():
            verb = line.upper().split(" ")[0].split(":")[0]
            if secret:
                self.said.append(line)
            if verb == "EHLO" and self.certificate:
                self.say("250-here\r\n250 AUTH PLAIN" if secret else "250-here\r\n250 STARTTLS")
                continue
            if verb == "STARTTLS":
                self.say("220 go on")
                try:
                    self.request = greeting(self.certificate).wrap_socket(self.request, server_side=True)
                except ssl.SSLError:
                    return
                self.setup()
                secret = True
                continue
            if verb == "AUTH":
                self.say("235 welcome")
                continue
            if verb == "DATA":
                self.say("354 go on")
                text = b""
                while (part := self.rfile.readline()) != b".\r\n":
                    text += part
                type(self).seen.append(text.decode())
            if verb == "QUIT":
                self.say("221 bye")
                return
            self.say("451 not now" if verb == "MAIL" and self.refuses else "250 fine")

    def finish(self) -> None:
        super().finish()
        self.request.close()  # what took the place of the socket that the server knows

    def say(self, text: str) -> None:
        self.wfile.write(text.encode() + b"\r\n")


def mail(*, refuses: bool = False, certificate: str = "") -> Any:
    kind = {"seen": [], "said": [], "refuses": refuses, "certificate": certificate}
    return type("OwnMail", (Mail,), kind)


def test_a_mail_says_what_happened_and_what_to_do() -> None:
    kind = mail()
    with running(socketserver.ThreadingTCPServer(("127.0.0.1", 0), kind)) as port:
        section = AlertsSection(smtp=f"smtp://127.0.0.1:{port}?to=a@example.com,b@example.com&from=rung@example.com")
        for _ in range(2):
            notify.send(section, arguments("smtp"), "d1")
    first, again = (message_from_string(text, policy=policy.default) for text in kind.seen)
    assert first["Subject"] == "[rung] critical: only 1 % is free at <!here>"
    assert (first["To"], first["From"]) == ("a@example.com, b@example.com", "rung@example.com")
    assert first["Message-ID"] == again["Message-ID"]
    assert f"rung alerts ack {ALERT.id}" in first.get_content()


def test_a_mail_server_that_refuses_is_tried_again() -> None:
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), mail(refuses=True))
    with running(server) as port, pytest.raises(NotReady, match="not now"):
        notify.send(AlertsSection(smtp=f"smtp://127.0.0.1:{port}?to=a@example.com"), arguments("smtp"), "d1")


def test_a_password_is_not_sent_in_the_open() -> None:
    with running(socketserver.ThreadingTCPServer(("127.0.0.1", 0), mail())) as port:
        section = AlertsSection(smtp=f"smtp://ann:secret@127.0.0.1:{port}?to=a@example.com")
        with pytest.raises(ConfigurationError, match="STARTTLS") as raised:
            notify.send(section, arguments("smtp"), "d1")
    assert "secret" not in str(raised.value)


@pytest.mark.usefixtures("trusted")
def test_a_password_is_sent_in_secret() -> None:
    kind = mail(certificate="first.pem")
    with running(socketserver.ThreadingTCPServer(("127.0.0.1", 0), kind)) as port:
        section = AlertsSection(smtp=f"smtp://ann:p%40ss@127.0.0.1:{port}?to=a@example.com")
        notify.send(section, arguments("smtp"), "d1")
    [login] = [line for line in kind.said if line.startswith("AUTH")]
    assert base64.b64decode(login.split(" ")[2]) == b"\0ann\0p@ss"
    assert len(kind.seen) == 1


@pytest.mark.usefixtures("trusted")
def test_no_mail_server_with_another_certificate_is_told() -> None:
    kind = mail(certificate="second.pem")
    with running(socketserver.ThreadingTCPServer(("127.0.0.1", 0), kind)) as port:
        section = AlertsSection(smtp=f"smtp://ann:secret@127.0.0.1:{port}?to=a@example.com")
        with pytest.raises(NotReady, match="certificate") as raised:
            notify.send(section, arguments("smtp"), "d1")
    assert "secret" not in str(raised.value)
    assert (kind.said, kind.seen) == ([], [])


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"webhook": "ftp://x/secretpath"}, "webhook"),
        ({"webhook": "https://"}, "webhook"),
        ({"slack": "nowhere"}, "slack"),
        ({"slack": "http://host:99999999/"}, "slack"),
        ({"smtp": "http://host?to=a@b"}, "smtp"),
        ({"smtp": "smtp://host"}, "smtp"),
        ({"smtp": "smtp://host?to=a@b&cc=c@d"}, "cc"),
        ({"webhook_secret": "short"}, "webhook_secret"),
    ],
)
def test_a_bad_setting_is_named_and_not_quoted(given: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigurationError, match=key) as raised:
        AlertsSection(**given)
    assert "secretpath" not in str(raised.value)


def test_a_channel_that_is_not_set_any_more_is_said() -> None:
    with pytest.raises(ConfigurationError, match="slack"):
        notify.send(AlertsSection(), arguments("slack"), "d1")
