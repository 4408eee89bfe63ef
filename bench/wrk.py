"""wrk as the closed-loop load: a number of connections, each sending its next request when it has its answer."""

import json
import shutil
import subprocess
from pathlib import Path

from processes import HERE
from workloads import BenchError, Request

__all__ = ["run_wrk"]


def run_wrk(port: int, request: Request, connections: int, seconds: float, scratch: Path) -> dict[str, float]:
    """Load a server. Returns `rate` in requests/s and `p50`, `p99`, `max` in ms.

    Raises:
        BenchError: wrk is not there or failed, or any answer was not a 2xx, or any connection broke.
    """
    if shutil.which("wrk") is None:
        raise BenchError("wrk is not installed: sudo apt-get install wrk")
    body = scratch / "body"
    body.write_bytes(request.body)
    url = f"http://127.0.0.1:{port}{request.path}"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(HERE / "post.lua"), url]
    headers = [f"{name}: {value}" for name, value in request.headers.items()]
    done = subprocess.run(
        [*command, "--", str(body), *headers], capture_output=True, text=True, timeout=seconds + 30, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise BenchError(f"wrk failed with status {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    result = json.loads(lines[0].removeprefix("RESULT "))
    if result["refused"] or result["broken"] or not result["requests"]:
        raise BenchError(
            f"of {result['requests']} answers {result['refused']} were not 2xx; {result['broken']} connections broke"
        )
    return {"rate": result["requests"] / result["seconds"], **{key: result[key] for key in ("p50", "p99", "max")}}
