"""Words counted over files of JSON lines, by one process and by as many as there are cores, in turns.

    python bench/mapreduce.py [--rows 400000] [--files 8] [--rounds 3]

Words are drawn by Zipf's law, so that some keys have very many values. Both results have to be the same, byte for byte.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import orjson

from rung.offline.mapreduce.plan import Plan
from rung.offline.mapreduce.run import run
from rung.serving.lanes import cores

COUNT = """
def map(row):
    for word in row["text"].split():
        yield word, 1


def combine(word, counts):
    return sum(counts)


def reduce(word, counts):
    return {"word": word, "count": sum(counts)}
"""


def write(folder: Path, rows: int, files: int) -> None:
    """Texts of 20 words."""
    rng = np.random.default_rng(0)
    for number in range(files):
        words = rng.zipf(1.3, (rows // files, 20)).clip(1, 1_000_000)
        lines = [orjson.dumps({"text": " ".join(f"w{word}" for word in line)}) for line in words.tolist()]
        (folder / f"texts-{number}.jsonl").write_bytes(b"\n".join(lines) + b"\n")


def count(folder: Path, processes: int) -> tuple[float, bytes]:
    """Rows a second, and the result."""
    plan = Plan(module="words", source="jsonl:texts-*.jsonl", out="counts.csv", folder=str(folder))
    began = time.perf_counter()
    done = run(plan, processes=processes)
    return done.read / (time.perf_counter() - began), (folder / "counts.csv").read_bytes()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "words.py").write_text(COUNT)
        write(folder, given.rows, given.files)
        rates: dict[int, list[float]] = {1: [], cores(): []}
        results = set()
        for _ in range(given.rounds):
            for processes, found in rates.items():
                rate, result = count(folder, processes)
                found.append(rate)
                results.add(result)
        assert len(results) == 1, "the results differ"
        for processes, found in rates.items():
            print(f"{processes} processes: {median(found):,.0f} rows/s ({min(found):,.0f} to {max(found):,.0f})")
        ratios = [many / one for one, many in zip(*rates.values(), strict=True)]
        print(f"ratio {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
