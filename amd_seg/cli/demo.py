"""`amd-seg demo`: a page on this machine to try the network on."""

import click

from amd_seg.cli import terminal
from amd_seg.cli.options import device_options, weights_option


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
def demo(
    port: int,
    no_browser: bool,
    weights: str | None,
    device: str,
    precision: str,
) -> None:
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
