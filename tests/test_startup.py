"""What a command loads: the first mask of a process should cost little more than torch itself."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]

SCRIPT = """
import os, sys
from amd_seg.cli import main
sys.argv = ["amd-seg", *sys.argv[1:]]
try:
    main()
finally:
    print(*sorted(sys.modules), os.environ["OMP_WAIT_POLICY"], sep="\\n", file=sys.stderr)
"""

# Drawing of letters, other runtimes, video, the Hub, and what torch loads when it compiles.
NEVER_FOR_A_PHOTO = {
    *("PIL.ImageDraw", "PIL.ImageFont", "onnx", "onnxruntime", "av", "cv2", "huggingface_hub"),
    *("torch._dynamo", "torch._inductor", "sympy", "tensorboard", "gradio", "scipy"),
}


def test_a_photo_loads_no_more_than_it_needs(tmp_path: Path, weights: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    command = ["image", str(tmp_path / "photo.png"), "--weights", str(weights), "--quiet"]
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    run = [sys.executable, "-c", SCRIPT, *command]
    done = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, check=True)
    *loaded, policy = done.stderr.decode().splitlines()
    assert not NEVER_FOR_A_PHOTO & set(loaded)
    assert not [name for name in loaded if name.startswith(("amd_seg.train", "amd_seg.eval"))]
    # Waiting threads sleep: spinning ones took several times the processor time on a busy machine.
    assert policy == "PASSIVE"
