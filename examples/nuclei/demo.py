"""The main job: find images, train and register by `rung train`, serve, ask, measure.

    python examples/nuclei/demo.py [--data DIR] [--out DIR] [--port 0] [--quick | --epochs N] [--exit]

On a terminal the server stays up until Ctrl-C; otherwise, and with --exit, the demo ends by itself.
It exits with 0 when the mean IoU on the fluorescence test images is at least 0.75 and the served answers
equal those of onnxruntime, with 1 otherwise.
"""

import argparse
import io
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import numpy as np  # noqa: E402
from dataset import BESIDE_THE_REPOSITORY, DataError, Dataset, Sample, find  # noqa: E402
from PIL import Image  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.markup import escape  # noqa: E402
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: E402
from rich.table import Table  # noqa: E402
from service import Load, Server, ServiceError, infer, load, predict  # noqa: E402
from sheet import Panel, draw, spread  # noqa: E402

from rung.domain.errors import RungError  # noqa: E402
from rung.domain.models import Manifest  # noqa: E402
from rung.domain.predictions import Payload  # noqa: E402

__all__ = ["main"]

Array = np.ndarray[Any, np.dtype[Any]]

NAME = "nuclei"
HOME, AWAY = "fluo_256", "stained_256x320"
KINDS = {HOME: "fluorescence", AWAY: "stained tissue"}
GOAL = 0.75
"""Mean IoU to reach on the fluorescence test images."""
EPOCHS = 14
"""Of training; with fewer the goal is not judged."""
REPOSITORY = ".rung/repository"
CONNECTIONS = 8
OVERLAY = "image/vnd.rung.overlay+png"


class Demo:
    """What the steps tell each other, and the time that each took."""

    def __init__(self, options: argparse.Namespace, console: Console) -> None:
        self.options = options
        self.console = console
        self.out: Path = options.out
        self.epochs: int = options.epochs or (7 if options.quick else EPOCHS)
        self.seconds: dict[str, float] = {}
        self.problems: list[str] = []

    @contextmanager
    def step(self, name: str, title: str) -> Iterator[None]:
        """Announce a step and time it."""
        self.console.print(f"\n[bold cyan]{len(self.seconds) + 1}  {title}[/]")
        begun = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - begun

    def say(self, text: str) -> None:
        """Print one line under the step."""
        self.console.print(f"   {text}", soft_wrap=True)

    def complain(self) -> None:
        """Print what went wrong, if anything did."""
        for problem in self.problems:
            self.console.print(f"[bold red]Not as it should be:[/] {escape(problem)}", soft_wrap=True)

    def bar(self, *columns: Any) -> Progress:
        """Return a progress bar that draws nothing where nobody watches."""
        watched = self.console.is_terminal
        return Progress(
            TextColumn("  "), BarColumn(32), *columns, TimeElapsedColumn(), console=self.console, disable=not watched
        )


def find_images(demo: Demo) -> Dataset:
    """Step 1: the images, and how many there are of each kind."""
    with demo.bar(DownloadColumn()) as bar:
        task = None

        def notify(received: int, total: int) -> None:
            nonlocal task
            if task is None:
                task = bar.add_task("download", total=total or None)
            bar.update(task, completed=received)

        data = find(demo.options.data, notify)
    style = "bold yellow" if data.kind == "drawn" else "default"
    demo.say(f"[{style}]{escape(data.where)}[/]")
    table = Table("   domain", box=None, pad_edge=False)
    for name in ("train", "val", "test"):
        table.add_column(name, justify="right")
    for domain, counts in data.counts().items():
        table.add_row(f"   {domain}", *(str(counts[split]) for split in ("train", "val", "test")))
    demo.console.print(table)
    return data


def make_project(demo: Demo) -> Path:
    """Copy the project into the folder of the results, where its `.rung` lies then."""
    project = demo.out / "project"
    project.mkdir(exist_ok=True)
    for name in ("model.py", "dataset.py", "checksums.csv", "rung.toml"):
        shutil.copyfile(HERE / name, project / name)
    return project


def train(demo: Demo, project: Path, data: Dataset) -> Manifest:
    """Step 2: `rung train`, as one would type it. It trains in a process of its own, and registers what came out."""
    from rung.catalog.models import show
    from rung.store.blobs import open_store

    if not all(data.select(HOME, split) for split in ("train", "val", "test")):
        raise DataError(f"there are no {HOME} images for training, validation and test in {data.where}")
    command = ["rung", "train", NAME, "--set", f"epochs={demo.epochs}"]
    demo.say("$ " + " ".join(command))
    done = subprocess.run([sys.executable, "-m", *command], cwd=project, env=_with_data(demo, data), check=False)
    if done.returncode:
        raise ServiceError("rung train failed; its lines above say why")
    return show(open_store(str(project / REPOSITORY)), NAME)


def _with_data(demo: Demo, data: Dataset) -> dict[str, str]:
    """The environment in which the project finds the images that were found here."""
    if data.kind != "folder":
        return dict(os.environ)
    folder = demo.options.data or os.environ.get("RUNG_DATA") or BESIDE_THE_REPOSITORY
    return {**os.environ, "RUNG_DATA": str(Path(folder).expanduser().resolve())}


def compare(demo: Demo, url: str, path: Path, chosen: Sequence[Sample]) -> int:
    """Ask one by one, and count the answers that equal onnxruntime's bit for bit: tensors and masks."""
    import model
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    steps = model.pipeline()
    equal = 0
    for sample, png in zip(chosen, predict(url, NAME, [s.image for s in chosen]), strict=True):
        prepared = steps.prepare(Payload("image", sample.image))
        (probability,) = session.run(None, {"image": prepared.inputs["image"]})
        (wanted,) = steps.finish({"probability": probability}, prepared)
        same_tensor = infer(url, NAME, prepared.inputs["image"]).tobytes() == probability.tobytes()
        equal += same_tensor and np.array_equal(_mask(png) > 0, wanted.mask > 0)
    if equal < len(chosen):
        demo.problems.append(f"{len(chosen) - equal} of {len(chosen)} served answers differ from onnxruntime's")
    return equal


def ask(demo: Demo, url: str, path: Path, data: Dataset) -> tuple[dict[str, list[float]], Load]:
    """Step 6: the test images over HTTP, first one by one, then over eight connections at once."""
    from model import iou

    home, away = data.select(HOME, "test"), data.select(AWAY, "test")
    equal = compare(demo, url, path, home)
    demo.say(f"one by one: {equal} of {len(home)} answers equal onnxruntime's bit for bit")
    images = [sample.image for sample in home]
    # Connections, threads and caches are warm before the clock starts.
    load(url, NAME, images, rounds=1)
    measured = load(url, NAME, images, rounds=15 if demo.epochs >= EPOCHS else 2)
    demo.say(f"{CONNECTIONS} connections: {len(measured.latencies)} requests in {measured.wall:.1f} s")
    masks = {HOME: measured.masks, AWAY: predict(url, NAME, [sample.image for sample in away])}
    scores = {
        domain: [iou(_mask(png), sample.mask) for png, sample in zip(masks[domain], chosen, strict=True)]
        for domain, chosen in ((HOME, home), (AWAY, away))
    }
    return scores, measured


def show(demo: Demo, scores: dict[str, list[float]], measured: Load) -> None:
    """Step 7, first half: the table."""
    table = Table("domain", title="Served answers on the test images", title_justify="left", title_style="bold")
    for name in ("images", "mean IoU", "median", "worst"):
        table.add_column(name, justify="right")
    for domain, found in scores.items():
        if found:
            figures = (float(np.mean(found)), float(np.median(found)), min(found))
            table.add_row(f"{domain}  ({KINDS[domain]})", str(len(found)), *(f"{figure:.3f}" for figure in figures))
    demo.console.print(table)
    table = Table()
    for name in ("connections", "requests", "p50 ms", "p99 ms", "requests/s"):
        table.add_column(name, justify="right")
    table.add_row(
        str(CONNECTIONS),
        str(len(measured.latencies)),
        f"{measured.percentile(50):.1f}",
        f"{measured.percentile(99):.1f}",
        f"{measured.rate:.0f}",
    )
    demo.console.print(table)
    if scores[AWAY]:
        demo.say("Stained tissue is a microscope that this model has never seen: it is served, and it is poor.")


def write(demo: Demo, url: str, data: Dataset, scores: dict[str, list[float]]) -> Path:
    """Step 7, second half: the picture worth looking at."""
    home, away = data.select(HOME, "test"), data.select(AWAY, "test")
    picked = [(home[i], scores[HOME][i]) for i in spread(scores[HOME], 6)]
    picked += [(away[i], scores[AWAY][i]) for i in spread(scores[AWAY], 4)[1:3]]
    overlays = predict(url, NAME, [sample.image for sample, _ in picked], OVERLAY)
    drawn = "drawn, as " if data.kind == "drawn" else ""
    panels = [
        Panel(sample.image, sample.mask, overlay, score, f"{drawn}{KINDS[sample.domain]}  {sample.id}")
        for (sample, score), overlay in zip(picked, overlays, strict=True)
    ]
    subtitle = (
        f"U-Net trained on {len(data.select(HOME, 'train'))} {drawn}fluorescence images, served by rung. "
        f"Mean IoU {np.mean(scores[HOME]):.3f} on {len(home)} test images; here from the best to the worst"
    )
    subtitle += ", then tissue it never saw." if away else "."
    return draw(panels, "Nuclei, found by rung", f"{subtitle} Pictures are brightened.", demo.out / "nuclei.png")


def record(demo: Demo, manifest: Manifest, data: Dataset, scores: dict[str, list[float]], measured: Load) -> Path:
    """Write the figures for programs."""
    import onnxruntime
    import torch

    results = {
        "data": data.kind,
        "version": manifest.version,
        "iou": {
            domain: {"images": len(found), "mean": float(np.mean(found)), "median": float(np.median(found))}
            for domain, found in scores.items()
            if found
        },
        "load": {
            "connections": CONNECTIONS,
            "requests": len(measured.latencies),
            "p50_ms": measured.percentile(50),
            "p99_ms": measured.percentile(99),
            "requests_per_second": measured.rate,
            "answers_differing_between_batches": measured.differing,
        },
        "seconds": {name: round(seconds, 2) for name, seconds in demo.seconds.items()},
        "problems": demo.problems,
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
    path = demo.out / "results.json"
    path.write_text(json.dumps(results, indent=2) + "\n")
    return path


def run(demo: Demo) -> None:
    """Go through the steps."""
    begun = time.perf_counter()
    demo.out.mkdir(parents=True, exist_ok=True)
    with demo.step("data", "Find the images"):
        data = find_images(demo)
    project = make_project(demo)
    with demo.step("train", "Train and register"):
        manifest = train(demo, project, data)
        path = project / REPOSITORY / NAME / str(manifest.version) / manifest.artifact
    server = Server(project / REPOSITORY, port=demo.options.port, log=demo.out / "server.log")
    with ExitStack() as open_now:
        with demo.step("serve", "Serve"):
            demo.say(f"rung serve {_shown(project / REPOSITORY)} --port {demo.options.port}")
            open_now.enter_context(server)
            demo.say(f"answers at {server.url}")
        with demo.step("ask", "Send the test images over HTTP"):
            scores, measured = ask(demo, server.url, path, data)
        with demo.step("show", "Results"):
            show(demo, scores, measured)
            picture = write(demo, server.url, data, scores)
        mean = float(np.mean(scores[HOME]))
        if mean < GOAL and demo.epochs >= EPOCHS:
            demo.problems.append(f"the mean IoU is {mean:.3f}, {GOAL} was to be reached")
        demo.say(f"picture  {_shown(picture)}")
        demo.say(f"figures  {_shown(record(demo, manifest, data, scores, measured))}")
        demo.say(f"{time.perf_counter() - begun:.0f} seconds in all")
        demo.complain()
        if sys.stdout.isatty() and not demo.options.exit:
            stay(demo, server, data)


def stay(demo: Demo, server: Server, data: Dataset) -> None:
    """Leave the server to whoever sits at the terminal, until Ctrl-C."""
    example = demo.out / "example.png"
    example.write_bytes(data.select(HOME, "test")[0].image)
    line = f"curl '{server.url}/predict/{NAME}?view=overlay' -H 'Content-Type: image/png'"
    # Whoever reads the first line may press Ctrl-C before the last one is written.
    with suppress(KeyboardInterrupt):
        demo.console.print(f"\n[bold]The server stays up at {server.url} until Ctrl-C. Try:[/]")
        demo.say(f"{line} --data-binary @{_shown(example)} -o overlay.png")
        server.wait()
    demo.console.print("\nThe server has ended.")


def _mask(png: bytes) -> Array:
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        return np.asarray(image)


def _shown(path: Path) -> str:
    """The path as short as it can be written from here."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _stop(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit code."""
    parser = argparse.ArgumentParser(description="Train a segmentation model on real images and serve it.")
    parser.add_argument("--data", type=Path, help="folder with manifest.csv, images/ and masks/")
    parser.add_argument("--out", type=Path, default=HERE / "out", help="folder for the repository and the results")
    parser.add_argument("--port", type=int, default=0, help="port of the server; 0 lets the kernel choose")
    parser.add_argument("--quick", action="store_true", help="train for half of the epochs; the IoU is not judged")
    parser.add_argument("--epochs", type=int, help=f"epochs of training; below {EPOCHS} the IoU is not judged")
    parser.add_argument("--exit", action="store_true", help="end when done, also on a terminal")
    width = shutil.get_terminal_size((100, 24)).columns
    demo = Demo(parser.parse_args(arguments), Console(width=max(80, width), highlight=False))
    # So that the server ends with the demo, whichever way that is asked to end.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        run(demo)
    except KeyboardInterrupt:
        demo.console.print("\nStopped.")
        return 130
    except (DataError, ServiceError, RungError) as error:
        demo.problems.append(str(error))
        demo.complain()
    return 1 if demo.problems else 0


if __name__ == "__main__":
    sys.exit(main())
