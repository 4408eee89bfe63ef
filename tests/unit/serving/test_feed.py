"""A source that cannot be read for a moment takes nothing away."""

import pytest
from structlog.testing import capture_logs

from rung.domain import moves
from rung.domain.errors import NotReady
from rung.domain.models import AspiredVersion
from rung.domain.releases import Move
from rung.serving.feed import Feed

ONE = AspiredVersion("m", 1, "d1")
RELEASE = moves.whole(None, "m", 1, "d1", Move("release", "ana"))


class Source:
    def __init__(self):
        self.versions, self.moves, self.trouble = [ONE], [RELEASE], ""

    def poll(self):
        if self.trouble == "versions":
            raise NotReady("no versions")
        return self.versions

    def releases(self):
        if self.trouble in ("releases", "versions"):
            raise NotReady("no releases")
        return self.moves


def test_the_last_known_stays_and_each_reason_is_said_once():
    source = Source()
    feed = Feed(source, 0.0)
    assert (feed.read(), feed.releases()) == ([ONE], [RELEASE])
    for trouble, said in (("releases", 1), ("", 0), ("releases", 1), ("versions", 1)):
        source.trouble = trouble
        with capture_logs() as logs:
            for _ in range(3):
                assert (feed.read(), feed.releases()) == ([ONE], [RELEASE])
        assert [line["action"] for line in logs] == ["poll_failed"] * said, (trouble, logs)


def test_what_was_never_read_is_not_guessed():
    source = Source()
    source.trouble = "releases"
    feed = Feed(source, 0.0)
    assert feed.read() == [ONE]
    with pytest.raises(NotReady, match="no releases"):
        feed.releases()


def test_nothing_at_all_is_believed_after_a_while():
    source, now = Source(), [0.0]
    feed = Feed(source, 5.0, lambda: now[0])
    assert feed.read() == [ONE]
    source.versions = []
    for at, versions in ((1.0, [ONE]), (5.9, [ONE]), (6.0, [])):
        now[0] = at
        assert feed.read() == versions, at
