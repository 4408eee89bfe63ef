"""onnxruntime with nothing round it: callers in a closed loop, sharing so many calls at once (lanes).

usage: bare_onnxruntime.py MODEL --callers N --lanes N --threads N --seconds S   (prints one line of JSON)
"""

import argparse
import json
import resource
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Thread
from time import perf_counter

import numpy as np
import onnxruntime

SHAPES = {"tiny": (1, 16), "seg": (1, 3, 128, 128)}
WARM_UP = 1.0


def call(run: Callable[[], object], until: float, latencies: list[float]) -> None:
    """One caller: compute again and again."""
    started = perf_counter()
    while started < until:
        run()
        now = perf_counter()
        latencies.append(now - started)
        started = now


def drive(run: Callable[[], object], callers: int, seconds: float) -> tuple[np.ndarray, float]:
    """Run the callers for so long; return their latencies and the seconds until the last had ended."""
    kept: list[list[float]] = [[] for _ in range(callers)]
    started = perf_counter()
    threads = [Thread(target=call, args=(run, started + seconds, mine)) for mine in kept]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return np.concatenate([np.array(mine) for mine in kept]), perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--callers", type=int, default=1)
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="intra-op threads of a call")
    parser.add_argument("--seconds", type=float, default=10.0)
    chosen = parser.parse_args()
    x = np.random.default_rng(1).standard_normal(SHAPES[chosen.model.stem]).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = chosen.threads, 1
    session = onnxruntime.InferenceSession(str(chosen.model), options, providers=["CPUExecutionProvider"])
    run = partial(session.run, None, {"x": x})
    if chosen.callers > chosen.lanes:
        # The pool's queue is first come, first served, as a server's is; a lock would favour its last holder.
        pool = ThreadPoolExecutor(chosen.lanes)
        straight, run = run, lambda: pool.submit(straight).result()
    drive(run, chosen.callers, WARM_UP)
    latencies, took = drive(run, chosen.callers, chosen.seconds)
    p50, p99 = np.percentile(latencies, [50, 99]) * 1e3
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(json.dumps({"rate": len(latencies) / took, "p50": p50, "p99": p99, "rss": rss}))


if __name__ == "__main__":
    main()
