"""Orders over a real socket."""

import stat
import threading

import pytest

from rung.domain.errors import Conflict, NotReady
from rung.fleet.orders import Order, OrderDesk, send_order


@pytest.fixture
def desk(tmp_path):
    (tmp_path / ".rung").mkdir()
    desk = OrderDesk(tmp_path)
    desk.open()
    yield desk
    desk.close()


def answering(desk: OrderDesk, error: str = "") -> tuple[threading.Thread, list[Order]]:
    taken: list[Order] = []

    def work() -> None:
        while not taken:
            if (came := desk.take()) is not None:
                taken.append(came[0])
                desk.answer(came[1], error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, taken


def test_an_order_comes_in_as_it_was_given(desk, tmp_path):
    thread, taken = answering(desk)
    send_order(tmp_path, Order(replicas=3, by="ana"))
    thread.join()

    assert taken == [Order(replicas=3, by="ana")]
    assert stat.S_IMODE((tmp_path / ".rung" / "up.sock").stat().st_mode) == 0o600


def test_a_refusal_says_why(desk, tmp_path):
    thread, _ = answering(desk, "not now")
    with pytest.raises(Conflict, match="not now"):
        send_order(tmp_path, Order(restart=True))
    thread.join()


def test_where_nothing_is_up_it_says_so(desk, tmp_path):
    desk.close()
    with pytest.raises(NotReady, match="nothing is up"):
        send_order(tmp_path, Order(auto=True))
    with pytest.raises(NotReady, match="nothing is up"):
        send_order(tmp_path / "elsewhere", Order(auto=True))
