"""A small U-Net for nuclei: the plain functions that a user of rung writes.

`rows` says what to learn from, `train` learns it. `TRANSFORMS` are the steps of the bundle. Training reads its images
through the very same steps as serving, so the two cannot drift apart.
"""

import io
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from dataset import domain_of, find
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from rung.domain.models import Step, Transforms
from rung.domain.predictions import Payload
from rung.domain.tensors import Signature, TensorSpec
from rung.training.context import Context
from rung.training.trained import Trained
from rung.transforms.pipeline import Pipeline

__all__ = [
    "LABELS",
    "SIGNATURE",
    "TRANSFORMS",
    "UNet",
    "evaluate",
    "iou",
    "labelled",
    "pipeline",
    "prepare",
    "rows",
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


class UNet(nn.Module):
    """Images in, probability of nucleus out; while it trains, log-odds.

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

    def forward(self, images: Tensor) -> Tensor:
        """Return the probability of nucleus, FP32 [N, 1, H, W], or its log-odds while training."""
        x = self.stem(self.fold(self.standardize(images)))
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(x)
        for reduce, up in zip(reversed(self.reduce), reversed(self.up), strict=True):
            x = F.interpolate(reduce(x), scale_factor=2.0, mode="nearest")
            x = up(torch.cat((x, skips.pop()), dim=1))
        logits = self.unfold(self.head(x))
        return logits if self.training else torch.sigmoid(logits)


def _block(fan_in: int, fan_out: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(fan_in, fan_out, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(8, fan_out), nn.ReLU(inplace=True))


def rows(*domains: str) -> Iterator[dict[str, Any]]:
    """Yield the pictures of some kinds of microscopy, by default fluorescence, with their masks as PNG.

    `NUCLEI_MOST` says how many of each kind to train on, at most, and a quarter of that how many to judge by; without
    it all are.
    """
    most = int(os.environ.get("NUCLEI_MOST") or sys.maxsize)
    for domain in domains or os.environ.get("NUCLEI_DOMAINS", "fluo_256").split(","):
        for split, name in (("train", "train"), ("val", "validation"), ("test", "test")):
            for sample in find().select(domain, split)[: most if name == "train" else most // 4]:
                mask = io.BytesIO()
                Image.fromarray(sample.mask * np.uint8(255)).save(mask, "PNG")
                yield {
                    "id": sample.id,
                    "domain": sample.domain,
                    "split": name,
                    "image": sample.image,
                    "mask": mask.getvalue(),
                }


def labelled(request: dict[str, Any]) -> dict[str, Any]:
    """Make a row of the data of a picture that a user sent, and the mask that came back for it."""
    with Image.open(io.BytesIO(request["image"]), formats=["PNG"]) as image:
        domain = domain_of(np.asarray(image.convert("RGB")))
    return {"id": request["prediction_id"], "domain": domain, "image": request["image"], "mask": request["label"]}


def pipeline() -> Pipeline:
    """Return the bundle's own steps, as the server runs them."""
    return Pipeline.of(TRANSFORMS, SIGNATURE, LABELS)


def prepare(images: Sequence[bytes]) -> Array:
    """Put encoded pictures through the bundle's input steps: FP32 [N, 3, 256, 256]."""
    steps = pipeline()
    return np.concatenate([steps.prepare(Payload("image", image)).inputs["image"] for image in images])


def iou(mask: Array, truth: Array) -> float:
    """Return intersection over union of the foregrounds of two [H, W] masks; 1 where both are empty."""
    one, two = mask > 0, truth > 0
    union = int(np.count_nonzero(one | two))
    return np.count_nonzero(one & two) / union if union else 1.0


def train(ctx: Context) -> Trained:
    """Train a network from scratch. The same data, seed and number of threads give the same weights."""
    part = ctx.data.frame("train")
    images = torch.from_numpy(prepare(part["image"].to_list()))
    masks = torch.from_numpy(np.stack([_shrink(_mask(mask)) for mask in part["mask"]]))[:, None]
    network = ctx.wrap(UNet().to(memory_format=torch.channels_last))
    optimizer = torch.optim.AdamW(network.parameters(), lr=ctx.params.rate, weight_decay=1e-2)
    epochs = ctx.params.epochs
    if len(images) < BATCH:
        raise ValueError(f"{len(images)} pictures are too few to learn from: {BATCH} go into one step")
    # Of fewer than ten steps the fifth that warms up would be none.
    steps = max(epochs * (len(images) // BATCH), 10)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, ctx.params.rate, total_steps=steps, pct_start=0.2)
    ctx.track(network=network, optimizer=optimizer, schedule=schedule)

    def crops(_batch: Any, *, epoch: int, indices: Array) -> tuple[Tensor, Tensor]:
        # From seed, epoch and place alone: the same crops after an interruption.
        return _crops(images, masks, indices, np.random.default_rng((ctx.seed, epoch, *indices)))

    for epoch in ctx.epochs(epochs):
        losses = []
        for pictures, truth in ctx.data.batches("train", BATCH, columns=("id",), transform=crops, drop_last=True):
            loss = _loss(network, pictures, truth)
            losses.append(loss.item())
            if ctx.step(loss, optimizer):
                schedule.step()
        # Measuring costs as much as several epochs of training.
        if epoch % 5 == 4 or epoch == epochs - 1:
            ctx.report(
                loss=float(np.mean(losses)), val_iou=float(np.mean(evaluate(network, ctx.data.frame("validation"))))
            )
    return Trained(
        network,
        transforms=TRANSFORMS,
        labels=LABELS,
        example={"image": images[:2].numpy()},
        outputs=("probability",),
        golden=[{"image": images[number : number + 1].numpy()} for number in range(3)],
        description="Nuclei in fluorescence microscopy, a small U-Net",
    )


def _loss(network: nn.Module, pictures: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy counts pixels, Dice counts overlap: a picture with few nuclei weighs as much as a full one."""
    logits = network(pictures)
    probability = torch.sigmoid(logits)
    overlap = (probability * masks).sum((1, 2, 3))
    dice = (2 * overlap + 1) / (probability.sum((1, 2, 3)) + masks.sum((1, 2, 3)) + 1)
    return F.binary_cross_entropy_with_logits(logits, masks) + (1 - dice).mean()


def _crops(images: Tensor, masks: Tensor, indices: Array, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Crops of one random size, 128 to 256 pixels, flipped and turned by quarters."""
    side = 16 * int(random.integers(8, SIDE // 16 + 1))
    crops = []
    for index in indices.tolist():
        top, left = random.integers(0, SIDE - side + 1, 2)
        # One array for both, so that picture and mask turn together.
        crop = torch.cat((images[index], masks[index]))[:, top : top + side, left : left + side]
        crop = torch.rot90(crop, int(random.integers(4)), (1, 2))
        crops.append(crop.flip(2) if random.integers(2) else crop)
    batch = torch.stack(crops)
    pictures = _light(batch[:, :3], random).contiguous(memory_format=torch.channels_last)
    return pictures, batch[:, 3:]


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


def _mask(png: bytes) -> Array:
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        return (np.asarray(image) > 0).astype(np.uint8)


def evaluate(network: nn.Module, part: Any) -> list[float]:
    """Return the IoU of each picture of a table at its original size, through the bundle's own steps."""
    steps = pipeline()
    network.eval()
    scores = []
    with torch.inference_mode():
        for image, mask in zip(part["image"], part["mask"], strict=True):
            prepared = steps.prepare(Payload("image", image))
            probability = network(torch.from_numpy(prepared.inputs["image"])).numpy()
            (result,) = steps.finish({"probability": probability}, prepared)
            scores.append(iou(result.mask, _mask(mask)))
    network.train()
    return scores
