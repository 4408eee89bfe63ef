import pytest

from rung.domain.errors import ConfigurationError
from rung.settings.project import ProjectSection
from rung.settings.queue import check_queue


@pytest.mark.parametrize(
    "text",
    [
        "sql",
        "nats://h",
        "tls://user:secret@h:4222?replicas=3",
        "nats://a:1,nats://b:2",
        "redis://:secret@h:6379/0",
        "valkeys://h",
        "unix:///run/valkey.sock",
    ],
)
def test_what_names_a_queue(text):
    check_queue(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SQL",
        "sqlite:x.db",
        "amqp://h",
        "nats://",
        "nats:h",
        "redis://:secret@",
        "unix://",
        "nats://h:no",
        "nats://a,b",
    ],
)
def test_what_does_not(text):
    with pytest.raises(ConfigurationError, match="it must be sql") as caught:
        ProjectSection(queue=text)
    assert "secret" not in str(caught.value)
