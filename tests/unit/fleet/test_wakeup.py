"""A signal wakes a loop that waits on a selector, and handlers are put back."""

import os
import selectors
import signal

from rung.fleet.wakeup import signals_heard


def test_a_signal_wakes_the_loop_and_is_told_once():
    before, heard = signal.getsignal(signal.SIGUSR1), []
    with selectors.DefaultSelector() as selector:
        with signals_heard(selector, (signal.SIGUSR1,), heard.append):
            os.kill(os.getpid(), signal.SIGUSR1)
            ((key, _),) = selector.select(20)
            key.data(key.fd)
            assert heard == [signal.SIGUSR1]
            assert selector.select(0) == []
        assert not selector.get_map()
    assert signal.getsignal(signal.SIGUSR1) is before
