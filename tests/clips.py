"""Real tiny clips for tests, encoded by FFmpeg: what is in them is known to the pixel."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Pair = tuple[int, int]

PATCHES = np.array(
    [(200, 60, 50), (60, 160, 70), (50, 80, 190), (128,) * 3, (235,) * 3, (220, 180, 140)]
)


def pq_patches() -> NDArray[np.uint16]:
    """A picture of 128x192 of the patches side by side: PQ, BT.2020, 16 bits, white at 203 nits."""
    to_2020 = [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
    light = (PATCHES / 255) ** 2.4 @ np.array(to_2020).T * 203 / 10_000
    power = light ** (2610 / 16384)
    code = ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)
    row = np.repeat(np.rint(code * 65535).astype(np.uint16), 32, axis=0)
    return np.tile(row, (128, 1, 1))


def moving_square(
    count: int = 8, *, height: int = 48, width: int = 64, side: int = 16, step: Pair = (0, 2)
) -> list[Pixels]:
    """Frames of a red square on a smooth background; it moves by `step` (down, right) a frame."""
    y, x = np.mgrid[:height, :width]
    background = np.stack((x * 120 // width, y * 120 // height, np.full_like(x, 90)), axis=-1)
    frames = []
    for number in range(count):
        frame = background.astype(np.uint8)
        top, left = (8 + number * pixels for pixels in step)
        frame[top : top + side, left : left + side] = (220, 30, 20)
        frames.append(frame)
    return frames


def texture(height: int, width: int, seed: int) -> Pixels:
    """Smooth random colours, so that a flow has something to hold on to."""
    coarse = np.random.default_rng(seed).integers(0, 255, (height // 4, width // 4, 3))
    return np.kron(coarse, np.ones((4, 4, 1))).astype(np.uint8)


def moving_patch(
    count: int = 6, *, height: int = 72, width: int = 96, side: int = 24, speed: int = 2
) -> tuple[Pixels, NDArray[np.bool_]]:
    """Frames of a bright patch that moves right while the background moves left, and its masks."""
    background = texture(height, width + 40, 0)
    patch = texture(side, side, 1) // 2 + 127
    frames = np.stack([background[:, time : time + width] for time in range(count)])
    masks = np.zeros(frames.shape[:3], bool)
    for time in range(count):
        left = 20 + speed * time
        frames[time, 20 : 20 + side, left : left + side] = patch
        masks[time, 20 : 20 + side, left : left + side] = True
    return frames, masks


def write_clip(
    path: Path,
    frames: Sequence[Pixels],
    *,
    rate: int | Fraction = 10,
    times: Sequence[float] | None = None,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    layout: str = "rgb24",
    aspect: Fraction | None = None,
    rotation: int = 0,
    audio: bool = False,
    options: dict[str, str] | None = None,
    durations: Sequence[float] = (),
    colours: tuple[int, int, int] | None = None,
) -> Path:
    """Encode frames of a layout; `times` in seconds (to the millisecond) make the rate variable.

    `durations` tell how long each frame is shown; an MP4 keeps the last without B-frames only.
    `colours` are space, transfer and range in FFmpeg's numbers.
    """
    # The index first, so that a file cut short can still be opened.
    container_options = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(path, "w", options=container_options) as out:
        stream = out.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        stream.codec_context.sample_aspect_ratio = aspect or Fraction(0)
        tick = Fraction(1, 1000) if times else 1 / Fraction(rate)
        stream.codec_context.time_base = tick
        if durations:
            stream.codec_context.flags |= Flags.frame_duration
        if colours:
            context, (space, context.color_trc, context.color_range) = stream.codec_context, colours
            context.colorspace = context.color_primaries = space
        if rotation:
            stream.set_display_rotation(rotation)
        sound = out.add_stream("aac", rate=8000, layout="mono") if audio else None
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format=layout)
            if colours:
                how = {"dst_colorspace": colours[0], "dst_color_range": colours[2]}
                frame = frame.reformat(format=pixel_format, **how)
            frame.pts = round(times[number] * 1000) if times else number
            frame.time_base = tick
            if durations:
                frame.duration = round(durations[number] / tick)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
        if sound is not None:
            samples = np.sin(np.arange(int(len(frames) / float(rate) * 8000)) * 0.3)
            values = samples[None].astype(np.float32)
            tone = av.AudioFrame.from_ndarray(values, format="fltp", layout="mono")
            tone.sample_rate, tone.pts = 8000, 0
            out.mux([*sound.encode(tone), *sound.encode(None)])
    return path


def remux(
    target: Path,
    *sources: Path,
    begin: Callable[[OutputContainer, list[Stream]], object] = lambda out, twins: None,
    is_wanted: Callable[[Packet], object] = lambda packet: True,
) -> Path:
    """Copy the streams of files into one.

    `begin` may change the new file before any packet; `is_wanted` may change a packet.
    """
    with ExitStack() as opened:
        out = opened.enter_context(av.open(target, "w"))
        containers = [opened.enter_context(av.open(source)) for source in sources]
        streams = [stream for container in containers for stream in container.streams]
        twins = [out.add_stream_from_template(stream) for stream in streams]
        begin(out, twins)
        for container in containers:
            for packet in container.demux():
                if packet.dts is not None and is_wanted(packet):
                    packet.stream = twins[streams.index(packet.stream)]
                    out.mux(packet)
    return target


def write_lossless(path: Path, frames: Sequence[Pixels], *, rate: int = 10) -> Path:
    """Encode RGB frames so that they come back bit for bit (suffix .mkv)."""
    return write_clip(path, frames, rate=rate, codec="ffv1", pixel_format="bgr0")


def write_folder(folder: Path, frames: Sequence[Pixels], suffix: str = ".png") -> Path:
    """Write frames as 00000.png, 00001.png, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(frames):
        Image.fromarray(pixels).save(folder / f"{number:05d}{suffix}")
    return folder


def truncate(path: Path, share: float) -> Path:
    """Cut a file after a share of its bytes, as a broken download does."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path
