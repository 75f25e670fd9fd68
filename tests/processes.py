"""The command `amd-seg` as a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

# Whoever runs the tests in the background may have had interrupts ignored.
CODE = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from amd_seg.cli import main; main()"
)


def start(*args: str) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", CODE, *args], env=environment, **pipes)
