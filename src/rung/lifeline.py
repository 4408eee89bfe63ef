"""A child's end with its parent, however that ends: a pipe whose other end only the parent holds.

Apart from `rung.processes`, so that a process which only starts and watches others loads no numpy.
"""

import fcntl
import os
import select
import signal

__all__ = ["end_with_parent"]


def end_with_parent(pipe: int) -> None:
    """Have the kernel kill our process group when the other end of `pipe` closes; exit if it has already.

    The caller has to lead a session of its own, or whoever started it would end too.
    """
    os.set_inheritable(pipe, False)
    # Unlike PR_SET_PDEATHSIG this does not fire when only the thread ends that started us, and it
    # reaches our own children. A parent that died before this was armed is seen by the poll.
    fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(pipe, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([pipe], [], [], 0)[0]:
        os._exit(1)
