"""`amd-seg demo` and `amd-seg env`: a page on this machine, and what this machine has."""

import platform
import sys
from importlib.metadata import distributions

import click

from amd_seg import __version__
from amd_seg.cli import terminal
from amd_seg.cli.options import device_options, weights_option

PACKAGES = (
    *("torch", "numpy", "pillow", "av", "safetensors", "huggingface-hub", "click", "tqdm"),
    *("torchvision", "opencv-python-headless", "pillow-heif", "tensorboard"),
    *("onnx", "onnxscript", "onnxruntime", "ray", "gradio"),
)
ENCODERS = ("libx264", "libx265", "libvpx-vp9", "libsvtav1", "prores_ks", "ffv1")


@click.command(context_settings={"show_default": True})
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=7860,
    help="Of this machine; 0 takes any that is free.",
)
@click.option("--no-browser", is_flag=True, help="Print the address only.")
@weights_option
@device_options
@terminal.quiet_option
def demo(port: int, no_browser: bool, weights: str | None, device: str, precision: str) -> None:
    """Open a page to try it on a photo or a short clip.

    The page is served to this machine only, and nothing leaves it. What is dropped there is
    removed when its page is closed. Ctrl-C ends it.

    \b
    amd-seg demo
    amd-seg demo --port 0 --no-browser
    """
    from amd_seg.demo import listen, require_gradio, serve

    require_gradio()
    taken = listen(port)
    from amd_seg.segmenter import Segmenter

    segmenter = Segmenter.from_pretrained(weights, device=device, precision=precision)

    def on_ready(address: str) -> None:
        if ended:  # While the engine was loading, which takes seconds.
            raise KeyboardInterrupt
        terminal.put(address)
        terminal.notice("Ctrl-C ends it.")
        if not no_browser:
            click.launch(address)

    # The server ends by them, and files are removed then; a plain SIGTERM would leave them.
    with terminal.stopped_by_signals() as ended:
        serve(segmenter, taken, on_ready)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@terminal.quiet_option
def env(as_json: bool) -> None:
    """Print versions, devices and codecs: what a bug report needs."""
    import av
    import torch
    from PIL import features

    from amd_seg.device import resolve_device
    from amd_seg.model.correlation_cuda import path_in_words

    device = resolve_device("auto")
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    ffmpeg = (f"{name} {'.'.join(map(str, v))}" for name, v in av.library_versions.items())
    installed = {d.name.replace("_", "-").lower(): d.version for d in distributions() if d.name}
    facts = {
        "amd-seg": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        **{name: installed.get(name, "not installed") for name in PACKAGES},
        "auto device": str(device),
        "cpu": f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        "cuda": gpus or "none",
        "cuda of torch": torch.version.cuda or "none",
        "mps": "yes" if torch.backends.mps.is_available() else "none",
        "correlation": path_in_words(device),
        "ffmpeg": ", ".join(ffmpeg),
        "video encoders": [name for name in ENCODERS if name in av.codecs_available],
        "image formats": [n for n in ("jpg", "webp", "avif", "libtiff") if features.check(n)],
    }
    if as_json:
        terminal.put(facts)
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        terminal.put(f"{name:{width}}  {', '.join(value) if isinstance(value, list) else value}")
