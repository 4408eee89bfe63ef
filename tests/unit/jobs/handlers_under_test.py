"""Handlers of test_worker.py, as users write them."""

import ctypes
import os
import time

from sqlalchemy import text

from rung.domain.errors import Cancelled


def double(context):
    return {"double": 2 * context.arguments["x"]}


def fail(context):
    raise ValueError("no\nway")


def write(context):
    context.effect(lambda connection: connection.execute(text("INSERT INTO rung_schedules VALUES ('effect', 1)")))


def write_wrongly(context):
    context.effect(lambda connection: connection.execute(text("INSERT INTO nowhere VALUES (1)")))


def add_up(context):
    return sum(context.parents().values())


def number(context):
    return context.arguments


def crash(context):
    ctypes.string_at(0)


def leave(context):
    os._exit(3)


def allocate(context):
    return len(bytearray(context.arguments))


def burn(context):
    while True:
        pass


def patient(context):
    while not context.should_stop():
        context.progress(0.5, "half way")
        time.sleep(0.01)
    raise Cancelled


def deaf(context):
    time.sleep(1.5)
    return "late"


def odd(context):
    return object()


def pid(context):
    return os.getpid()
