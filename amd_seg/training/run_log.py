"""What a run writes for those who look on: log, curves, picture sheets; and when it is lost."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from amd_seg.classes import Classes
from amd_seg.errors import TrainingDivergedError
from amd_seg.media.files import make_folder, write_atomically, write_errors
from amd_seg.media.images import Pixels, save_image
from amd_seg.media.labels import indexed_image
from amd_seg.media.render import Tile, region_palette, render_regions, render_saliency, tiled
from amd_seg.model.amd import AMD
from amd_seg.model.appearance import SemanticNetwork
from amd_seg.model.objective import splat_visibility
from amd_seg.model.segment_flow import synthesize_view
from amd_seg.training.config import RunConfig
from amd_seg.training.labelled_photos import LabelBatch
from amd_seg.training.loop import Batches, StepReport
from amd_seg.training.masked_images import MaskBatch
from amd_seg.training.pairs import PairBatch
from amd_seg.training.run_folder import RunFolder

ROWS = 4  # of a sheet
ERROR_GAIN = 3  # A difference of 1/3 is drawn white: errors that matter are far below 1.
PATIENCE = 200  # steps that a collapse must last: a run passes through bad batches and bad starts

Columns = dict[str, list[Tile]]  # of a sheet, by their headings


class RunLog:
    """Writes what is due after a step; sheets show the first batch, and the stream is not moved.

    Where masks are learned, the region `object_channel` is shown as the object.
    """

    def __init__(
        self, folder: RunFolder, config: RunConfig, batches: Batches, object_channel: int
    ) -> None:
        self.folder, self.config, self.object_channel = folder, config, object_channel
        self.shown: Any = None
        if config.sheet_every:
            position = batches.state_dict()
            self.shown = next(batches)
            batches.load_state_dict(position)
        self.curves: Any = None
        with suppress(ImportError):  # Without TensorBoard log.jsonl has the same numbers.
            from torch.utils.tensorboard import SummaryWriter

            with write_errors(folder.curves):
                self.curves = SummaryWriter(str(folder.curves))

    def cut_after(self, step: int) -> None:
        """Take back the lines of later steps, which happen again, and one that a kill cut short."""
        kept = []
        with suppress(FileNotFoundError, ValueError):
            for text in self.folder.log.read_text().splitlines():
                if json.loads(text)["step"] > step:
                    break
                kept.append(text + "\n")
        write_atomically(self.folder.log, "".join(kept))

    def after_step(self, model: nn.Module, report: StepReport) -> None:
        """Write the line and the sheet that are due."""
        if report.step % self.config.log_every == 0:
            line = {
                **{name: round(value, 6) for name, value in report.parts.items()},
                "learning_rate": report.learning_rate,
                "gradient_norm": round(report.gradient_norm, 6),
                "seconds": round(report.seconds, 2),
            }
            with write_errors(self.folder.log), self.folder.log.open("a") as file:
                file.write(json.dumps({"step": report.step, **line}) + "\n")
            if self.curves is not None:
                with write_errors(self.folder.curves):
                    for name, value in line.items():
                        self.curves.add_scalar(name, value, report.step)
        if self.shown is not None and report.step % self.config.sheet_every == 0:
            make_folder(self.folder.sheets)
            path = self.folder.sheets / f"step-{report.step:09d}.png"
            save_image(draw_sheet(model, self.shown, self.object_channel), path)

    def close(self) -> None:
        """Write the last numbers of the curves: those that tell why a run ended."""
        if self.curves is not None:
            with write_errors(self.folder.curves):
                self.curves.close()


# Monitor: the healthy range, without its ends; what lies beyond, and what helps. Far outside what a
# run that learns shows: reasoned, not measured on runs that were lost.
COLLAPSES = {
    "largest_area": (
        (-1.0, 0.995),
        "all pixels are in one region",
        "Start again with --set entropy_weight=0.1, or more --set regions",
    ),
    "visible": (
        (0.05, 2.0),
        "the flow leaves the frame, so that nothing is visible",
        "Start again with a lower --learning-rate, --set gradient_clip=1 or --set warmup_steps=200",
    ),
    "entropy": (
        (1e-3, 2.0),
        "the masks are saturated, so that no gradient reaches them",
        "Start again with --set entropy_weight=0.1 or a lower --learning-rate",
    ),
    "area": (
        (5e-4, 0.995),
        "the object is everything or nothing",
        "Look at the targets, or start again with a lower --learning-rate",
    ),
}


@dataclass
class CollapseCheck:
    """Counts the steps in a row at which a run looks collapsed."""

    patience: int = PATIENCE
    counts: Counter[str] = field(default_factory=Counter)

    def __call__(self, step: int, parts: Mapping[str, float]) -> None:
        """Raise where one of a step's monitors has been out of its range for `patience` steps."""
        for name, ((low, high), what, advice) in COLLAPSES.items():
            is_healthy = name not in parts or low < parts[name] < high
            self.counts[name] = 0 if is_healthy else self.counts[name] + 1
            if self.counts[name] >= self.patience:
                raise TrainingDivergedError(
                    f"Training collapsed: {what} ({name} {parts[name]:.4g} at step {step}, for "
                    f"{self.patience} steps). {advice}; --set alarms=false goes on all the same."
                )


@torch.no_grad()
def draw_sheet(
    model: Any, batch: PairBatch | MaskBatch | LabelBatch, object_channel: int = 0
) -> Image.Image:
    """Draw what a model makes of the first items of a batch."""
    was_training = model.training
    model.eval()
    shown: Any = type(batch)(*(part[:ROWS] for part in batch))  # type: ignore[arg-type]
    if isinstance(batch, PairBatch):
        columns = _pair_columns(model, shown)
    elif isinstance(batch, MaskBatch):
        columns = _mask_columns(model, shown, object_channel)
    else:
        columns = _label_columns(model, shown)
    model.train(was_training)
    return tiled(tuple(columns), list(zip(*columns.values(), strict=True)))


def flow_colours(flow: NDArray[np.float32]) -> Pixels:
    """Return the colours of a flow (height, width, 2), in pixels, x first; none is white.

    Hue is the direction (red to the right, then yellow, green, blue clockwise), saturation the
    length as a share of the longest.
    """
    length = np.linalg.norm(flow, axis=-1)
    share = length / max(float(length.max()), 1e-2)
    angle = np.degrees(np.arctan2(flow[..., 1], flow[..., 0])) % 360
    hsv = np.stack((angle, share, np.ones_like(share)), axis=-1).astype(np.float32)
    picture: Pixels = np.rint(255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)).astype(np.uint8)
    return picture


def _pair_columns(model: AMD, batch: PairBatch) -> Columns:
    found = model(batch.frame_i, batch.frame_j)
    view, flow = found.view_j, found.view_j.flows[0]
    size = view.target.shape[-2:]
    rebuilt = synthesize_view(view.source, flow)
    visible = splat_visibility(found.view_i.flows[0])
    error = (view.target - rebuilt).abs().mean(dim=1, keepdim=True) * visible
    longest = [f"longest {each:.2g} px of {size[1]}" for each in flow.norm(dim=1).amax(dim=(1, 2))]
    wheels = [flow_colours(each) for each in flow.float().permute(0, 2, 3, 1).cpu().numpy()]
    means = [f"mean {each:.3f}" for each in error.mean(dim=(1, 2, 3))]
    return {
        "frame i": _tiles(view.source, batch.names),
        "frame j": _tiles(view.target),
        "regions of i": _regions(view.source, view.masks),
        "flow": [(Image.fromarray(w), text) for w, text in zip(wheels, longest, strict=True)],
        "j from i": _tiles(rebuilt),
        f"error x {ERROR_GAIN}": _tiles(ERROR_GAIN * error.expand(-1, 3, -1, -1), means),
    }


def _mask_columns(model: AMD, batch: MaskBatch, channel: int) -> Columns:
    frames, masks = batch.frames / 255, model.segment(batch.frames)
    whole = F.interpolate(masks, frames.shape[-2:], mode="bilinear")[:, channel].cpu().numpy()
    share = "{:.0%} of the frame".format
    shares = [share(mask.mean().item() / 255) for mask in batch.masks]
    return {
        "frame": _tiles(frames, batch.names),
        "regions": _regions(frames, masks),
        "object": [(render_saliency(each), share(each.mean())) for each in whole],
        "mask": _tiles(batch.masks.expand(-1, 3, -1, -1) / 255, shares),
    }


def _label_columns(model: SemanticNetwork, batch: LabelBatch) -> Columns:
    size = batch.labels.shape[-2:]
    found = F.interpolate(model.logits(batch.frames), size, mode="bilinear").argmax(dim=1)
    # VOC's colours, whatever the classes': a sheet is to be looked at, not to be read back.
    plain = Classes.of([str(label) for label in range(model.config.classes)])
    classes, labels = (
        [(indexed_image(each, plain), "") for each in maps.byte().cpu().numpy()]
        for maps in (found, batch.labels)
    )
    frames = _tiles(batch.frames / 255, batch.names)
    return {"frame": frames, "classes": classes, "labels": labels}


def _regions(images: Tensor, masks: Tensor) -> list[Tile]:
    """Draw regions over frames, and along the lower edge of each the share of each region."""
    whole = F.interpolate(masks, images.shape[-2:], mode="bilinear").cpu().numpy()
    tiles = []
    for (frame, _), regions in zip(_tiles(images), whole, strict=True):
        picture = render_regions(np.asarray(frame), regions)
        shares = regions.mean(axis=(1, 2))
        ends = np.rint(np.cumsum(shares) * picture.width).astype(int)
        bar = np.repeat(region_palette(len(regions)), np.diff(ends, prepend=0), axis=0)[None]
        height = max(1, picture.height // 20)
        strip = Image.fromarray(bar).resize((bar.shape[1], height))
        picture.paste(strip, (0, picture.height - height))
        tiles.append((picture, " ".join(f"{share:.0%}" for share in shares)))
    return tiles


def _tiles(images: Tensor, captions: Sequence[str] = ("",) * ROWS) -> list[Tile]:
    """Show (image, 3, height, width) in 0..1."""
    pixels = images.float().clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1)
    shown = pixels.contiguous().cpu().numpy()
    return [(Image.fromarray(p), text) for p, text in zip(shown, captions, strict=False)]
