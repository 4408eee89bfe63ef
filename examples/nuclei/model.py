"""A small U-Net for nuclei: the plain functions that a user of rung writes.

`samples` says what to learn from, `train` learns it, `evaluate` measures it, `export` writes the file that
is served. `TRANSFORMS` are the steps of the bundle. Training reads its images through the very same steps as
serving, so the two cannot drift apart.
"""

import itertools
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from dataset import Sample, find
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from rung.domain.models import Step, Transforms
from rung.domain.predictions import Payload
from rung.domain.tensors import Signature, TensorSpec
from rung.transforms.pipeline import Pipeline

__all__ = [
    "LABELS",
    "SIGNATURE",
    "TRANSFORMS",
    "Progress",
    "UNet",
    "evaluate",
    "export",
    "iou",
    "pipeline",
    "prepare",
    "samples",
    "train",
]

Array = np.ndarray[Any, np.dtype[Any]]

SIDE = 256
"""Pixels on each side of what the network sees."""
LABELS = ("nucleus",)
SIGNATURE = Signature(
    inputs=(TensorSpec("image", "FP32", (-1, 3, SIDE, SIDE)),),
    outputs=(TensorSpec("probability", "FP32", (-1, 1, SIDE, SIDE)),),
)
TRANSFORMS = Transforms(
    input=(
        Step("image.decode", {"max_pixels": 50_000_000}),
        Step("image.resize", {"height": SIDE, "width": SIDE, "method": "bilinear"}),
        Step("image.normalize", {}),
        Step("image.layout", {"order": "CHW"}),
    ),
    output=(Step("segmentation.mask", {"threshold": 0.5, "activation": "none"}),),
)
WIDTHS = (16, 32, 64, 96)
"""Channels at 1/2, 1/4, 1/8 and 1/16 of the resolution."""
BATCH = 8


class Progress(NamedTuple):
    """What `train` reports after each step."""

    step: int
    steps: int
    loss: float
    """Mean of the latest 25 steps: binary cross-entropy plus 1 - Dice."""
    iou: float
    """On the validation images; nan before the first measurement."""


class UNet(nn.Module):
    """Images in, probability of nucleus out.

    FP32 [N, 3, H, W] in 0..1 with H and W multiples of 16 becomes FP32 [N, 1, H, W] in 0..1.
    The first layer folds 2 x 2 pixels into channels and the last unfolds them, so that no convolution runs
    at full resolution: about a quarter of the cost for the same mask. GroupNorm, unlike BatchNorm,
    answers the same in a batch of one and of eight.
    """

    def __init__(self, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(widths))
        # Each image to mean 0 and deviation 1: fluorescence images differ tenfold in brightness.
        self.standardize = nn.GroupNorm(1, 3, affine=False)
        self.fold = nn.PixelUnshuffle(2)
        self.stem = nn.Sequential(_block(12, widths[0]), _block(widths[0], widths[0]))
        self.down = nn.ModuleList(nn.Sequential(_block(a, b, stride=2), _block(b, b)) for a, b in pairs)
        self.reduce = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairs)
        self.up = nn.ModuleList(_block(2 * a, a) for a, _ in pairs)
        self.head = nn.Conv2d(widths[0], 4, 1)
        self.unfold = nn.PixelShuffle(2)

    def logits(self, images: Tensor) -> Tensor:
        """Return the log-odds of nucleus, FP32 [N, 1, H, W]."""
        x = self.stem(self.fold(self.standardize(images)))
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(x)
        for reduce, up in zip(reversed(self.reduce), reversed(self.up), strict=True):
            x = F.interpolate(reduce(x), scale_factor=2.0, mode="nearest")
            x = up(torch.cat((x, skips.pop()), dim=1))
        return self.unfold(self.head(x))

    def forward(self, images: Tensor) -> Tensor:
        """Return the probability of nucleus, FP32 [N, 1, H, W]."""
        return torch.sigmoid(self.logits(images))


def _block(fan_in: int, fan_out: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(fan_in, fan_out, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(8, fan_out), nn.ReLU(inplace=True))


def samples(root: str | Path | None = None, domain: str = "fluo_256", split: str = "train") -> list[Sample]:
    """Return the pictures of one kind of microscopy and one split, with their masks.

    Raises:
        DataError: `root` does not hold the images.
    """
    return find(root).select(domain, split)


def pipeline() -> Pipeline:
    """Return the bundle's own steps, as the server runs them."""
    return Pipeline.of(TRANSFORMS, SIGNATURE, LABELS)


def prepare(chosen: Sequence[Sample]) -> Array:
    """Put the pictures through the bundle's input steps: FP32 [N, 3, 256, 256]."""
    steps = pipeline()
    return np.concatenate([steps.prepare(Payload("image", sample.image)).inputs["image"] for sample in chosen])


def iou(mask: Array, truth: Array) -> float:
    """Return intersection over union of the foregrounds of two [H, W] masks; 1 where both are empty."""
    one, two = mask > 0, truth > 0
    union = int(np.count_nonzero(one | two))
    return np.count_nonzero(one & two) / union if union else 1.0


def train(
    chosen: Sequence[Sample],
    validation: Sequence[Sample],
    *,
    steps: int = 480,
    rate: float = 5e-3,
    seed: int = 0,
    report: Callable[[Progress], None] = lambda _progress: None,
) -> UNet:
    """Train a network from scratch.

    The same samples, seed and number of threads give the same weights.

    Args:
        chosen: what to learn from.
        validation: what to measure the IoU on, eight times along the way.
        steps: batches of 8 crops.
        rate: peak of the one-cycle schedule.
        seed: of the weights, crops and turns.
        report: called after each step.
    """
    torch.manual_seed(seed)
    network = UNet().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
    losses: list[float] = []
    measured = float("nan")
    for step, (images, masks) in enumerate(_batches(chosen, steps, seed), 1):
        loss = _loss(network.logits(images), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % max(1, steps // 8) == 0 and validation:
            measured = float(np.mean(evaluate(network, validation)))
        report(Progress(step, steps, float(np.mean(losses[-25:])), measured))
    return network.eval()


def _loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy counts pixels, Dice counts overlap: a picture with few nuclei weighs as much as a full one."""
    probability = torch.sigmoid(logits)
    overlap = (probability * masks).sum((1, 2, 3))
    dice = (2 * overlap + 1) / (probability.sum((1, 2, 3)) + masks.sum((1, 2, 3)) + 1)
    return F.binary_cross_entropy_with_logits(logits, masks) + (1 - dice).mean()


def _batches(chosen: Sequence[Sample], steps: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of crops of one random size, 128 to 256 pixels, flipped and turned by quarters."""
    images = torch.from_numpy(prepare(chosen))
    masks = torch.from_numpy(np.stack([_shrink(sample.mask) for sample in chosen]))[:, None]
    random = np.random.default_rng(seed)
    order: list[int] = []
    for _ in range(steps):
        side = 16 * int(random.integers(8, SIDE // 16 + 1))
        crops = []
        for _ in range(BATCH):
            order = order or random.permutation(len(images)).tolist()
            index = order.pop()
            top, left = random.integers(0, SIDE - side + 1, 2)
            # One array for both, so that picture and mask turn together.
            crop = torch.cat((images[index], masks[index]))[:, top : top + side, left : left + side]
            crop = torch.rot90(crop, int(random.integers(4)), (1, 2))
            crops.append(crop.flip(2) if random.integers(2) else crop)
        batch = torch.stack(crops)
        pictures = _light(batch[:, :3], random).contiguous(memory_format=torch.channels_last)
        yield pictures, batch[:, 3:]


def _light(pictures: Tensor, random: np.random.Generator) -> Tensor:
    """Add a soft glow to a third of the pictures, as stray light does in a few of the real ones."""
    side = pictures.shape[-1]
    axis = torch.arange(side, dtype=torch.float32) / side
    glows = []
    for _ in range(len(pictures)):
        x, y = random.uniform(0, 1, 2).astype(np.float32)
        width, strength = random.uniform(0.15, 0.6), random.uniform(0.02, 0.3) * (random.random() < 1 / 3)
        across, down = (torch.exp(-(((axis - float(at)) / width) ** 2)) for at in (x, y))
        glows.append(strength * down[:, None] * across[None, :])
    return (pictures + torch.stack(glows)[:, None]).clamp(max=1)


def _shrink(mask: Array) -> Array:
    """Bring a mask to the size of the network's picture."""
    resized = Image.fromarray(mask).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    return np.asarray(resized, np.float32)


def evaluate(network: UNet, chosen: Sequence[Sample]) -> list[float]:
    """Return the IoU of each picture at its original size, through the bundle's own steps."""
    steps = pipeline()
    network.eval()
    scores = []
    with torch.inference_mode():
        for sample in chosen:
            prepared = steps.prepare(Payload("image", sample.image))
            probability = network(torch.from_numpy(prepared.inputs["image"])).numpy()
            (result,) = steps.finish({"probability": probability}, prepared)
            scores.append(iou(result.mask, sample.mask))
    network.train()
    return scores


def export(network: UNet, path: Path) -> Path:
    """Write the network as one ONNX file, batch size free, sigmoid included."""
    # The exporter names operators of torchvision that nobody asked for.
    logging.getLogger("torch.onnx._internal.exporter").setLevel(logging.ERROR)
    example = torch.zeros(2, 3, SIDE, SIDE)
    with warnings.catch_warnings():
        # Deprecations inside torch, of no use to whoever exports a model.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network.eval(),
            (example,),
            dynamo=True,
            verbose=False,
            opset_version=20,
            input_names=["image"],
            output_names=["probability"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1, max=4096)}},
        )
    assert program is not None
    # Traces of the source tree, with the paths of this machine, have no place in a file that others load.
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()
    path.parent.mkdir(parents=True, exist_ok=True)
    program.save(path, external_data=False)
    return path
