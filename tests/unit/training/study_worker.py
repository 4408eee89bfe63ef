"""A worker of a study whose trials take no time, but for one at which it waits to be killed."""

import signal
import sys
from pathlib import Path
from typing import Any

from rung.training.studies import Book

folder, name, waits_at, storage = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
book = Book.open(folder, storage, name)
book.attend()


def objective(trial: Any) -> float:
    x = trial.suggest_float("x", -5, 5)
    if trial.number == waits_at:
        print("here", flush=True)
        signal.pause()
    return float(x * x)


while book.work(objective):
    pass
book.close()
