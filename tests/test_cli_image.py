import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from pycocotools import mask as runs

from amd_seg import Segmenter
from amd_seg.cli import COMMANDS, cli
from amd_seg.cli.terminal import REMOVED_OPTIONS

Run = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with two photos in it and one below it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    for seed, name in enumerate(("a.jpg", "b.png", "deep/c.png")):
        pixels = np.random.default_rng(seed).integers(0, 255, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    return tmp_path


@pytest.fixture
def run(folder: Path, weights: Path) -> Run:
    """Run `amd-seg image` there, on the CPU with tiny weights unless told otherwise."""

    def run_image(*args: str, stdin: bytes | None = None) -> Result:
        defaults = ["--weights", str(weights)] if "--weights" not in args else []
        defaults += ["--device", "cpu"] if "--device" not in args else []
        return CliRunner().invoke(cli, ["image", *args, *defaults], input=stdin)

    return run_image


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def picture(name: str) -> np.ndarray:
    with Image.open(name) as image:
        return np.asarray(image)


PHOTOS = {"a.jpg", "b.png", "deep/c.png"}


# Where outputs go


def test_one_photo_gives_a_mask_beside_it(run: Run, folder: Path, weights: Path) -> None:
    result = run("a.jpg")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "a.mask.png\n", "")
    assert files(folder) == PHOTOS | {"a.mask.png"}
    with Image.open("a.mask.png") as mask:
        assert (mask.mode, mask.size) == ("L", (60, 40))
        expected = Segmenter.from_pretrained(weights, device="cpu")("a.jpg").mask
        np.testing.assert_array_equal(np.asarray(mask) == 255, expected)


@pytest.mark.parametrize(
    ("args", "outputs"),
    [
        (["a.jpg", "-o", "m.png"], {"m.png"}),
        (["a.jpg", "-o", "m.tiff"], {"m.tiff"}),
        (["a.jpg", "-o", "deep"], {"deep/a.mask.png"}),
        (["a.jpg", "-o", "new/"], {"new/a.mask.png"}),
        (["a.jpg", "b.png", "-o", "new"], {"new/a.mask.png", "new/b.mask.png"}),
        (["a.jpg", "./a.jpg"], {"a.mask.png"}),
        ([".", "a.jpg"], {"a.mask.png", "b.mask.png"}),
        (["*.jpg", "-o", "new"], {"new/a.mask.png"}),
        (
            [".", "--recursive", "-o", "new", "--output", "cutout"],
            {"new/a.cutout.png", "new/b.cutout.png", "new/deep/c.cutout.png"},
        ),
        (["deep", "--output", "regions"], {"deep/c.regions.png"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_outputs_go_where_they_are_told(
    run: Run, folder: Path, args: list[str], outputs: set[str]
) -> None:
    result = run(*args)
    assert result.exit_code == 0, result.stderr
    assert files(folder) == PHOTOS | outputs
    assert {str(Path(line)) for line in result.stdout.splitlines()} == outputs


def test_outputs_in_a_folder_are_no_photos(run: Run, folder: Path) -> None:
    assert run(".").exit_code == 0
    assert run(".", "--overwrite").stdout.splitlines() == ["a.mask.png", "b.mask.png"]
    assert run("a.mask.png", "-o", "m.png").exit_code == 0
    (folder / "a.jpg").unlink()
    result = run("a*")
    assert result.exit_code == 1
    assert "only files that amd-seg wrote" in result.stderr


def test_stdin_and_stdout(run: Run, folder: Path) -> None:
    photo = (folder / "a.jpg").read_bytes()
    through = run("-", stdin=photo)
    assert through.exit_code == 0, through.stderr
    run("a.jpg")
    run("-", "-o", "from-stdin.png", stdin=photo)
    run("-", "b.png", "-o", "new", stdin=photo)
    to_stdout = run("a.jpg", "-o", "-", "--output", "cutout")
    with Image.open(io.BytesIO(through.stdout_bytes)) as mask:
        np.testing.assert_array_equal(np.asarray(mask), picture("a.mask.png"))
    with Image.open(io.BytesIO(to_stdout.stdout_bytes)) as cutout:
        assert (cutout.format, cutout.mode) == ("PNG", "RGBA")
    written = {"a.mask.png", "from-stdin.png", "new/stdin.mask.png", "new/b.mask.png"}
    assert files(folder) == PHOTOS | written


# What exists stays, unless


def test_an_output_that_exists_needs_a_word(run: Run, folder: Path) -> None:
    (folder / "a.mask.png").write_text("mine")
    refused = run("a.jpg", "b.png")
    assert refused.exit_code == 2
    assert "1 of 2 outputs exist, such as a.mask.png. Use --overwrite" in refused.stderr
    assert (folder / "a.mask.png").read_text() == "mine"
    assert not (folder / "b.mask.png").exists()

    resumed = run("a.jpg", "b.png", "--resume")
    assert (resumed.exit_code, resumed.stdout) == (0, "b.mask.png\n")
    assert "1 of 2 photos were done before" in resumed.stderr
    assert (folder / "a.mask.png").read_text() == "mine"

    assert run("a.jpg", "b.png", "--overwrite").exit_code == 0
    assert picture("a.mask.png").shape == (40, 60)


def test_shards_share_the_photos_whatever_else_is_there(run: Run, folder: Path) -> None:
    names = [f"{index}.png" for index in range(24)]
    for name in names:
        Image.new("RGB", (9, 8)).save(folder / "deep" / name)
    shards = ["1/3", "2/3", "3/3"]
    parts = [run("deep", "-o", "out", "--shard", shard).stdout.splitlines() for shard in shards]
    assert all(parts)
    written = sorted(line for part in parts for line in part)
    assert written == sorted(f"out/{Path(name).stem}.mask.png" for name in [*names, "c.png"])
    # Another photo, an output less: nothing else moves to another part.
    (folder / "deep" / "new.png").write_bytes((folder / "deep" / "0.png").read_bytes())
    (folder / parts[1][0]).unlink()
    again = [run("deep", "-o", "out", "--shard", shard, "--resume") for shard in shards]
    assert {result.exit_code for result in again} == {0}
    lines = [result.stdout.splitlines() for result in again]
    assert [[line for line in part if "new" not in line] for part in lines] == [
        [],
        parts[1][:1],
        [],
    ]
    assert [line for part in lines for line in part].count("out/new.mask.png") == 1


@pytest.mark.parametrize("shard", ["0/3", "4/3", "3", "a/b", "1/0", "-1/3", "1/2/3"])
def test_a_shard_that_is_none_is_refused(run: Run, shard: str) -> None:
    result = run("a.jpg", "--shard", shard)
    assert result.exit_code == 2
    assert "Give I/N, such as 1/64" in result.stderr


def test_resuming_what_is_done_needs_no_weights(run: Run) -> None:
    run("a.jpg")
    result = run("a.jpg", "--resume", "--weights", "nowhere", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "input": "a.jpg",
        "output": "a.mask.png",
        "status": "skipped",
    }


# What goes wrong


def test_a_bad_file_never_stops_a_batch(run: Run, folder: Path) -> None:
    (folder / "a.bad.jpg").write_bytes(b"no image")
    (folder / "empty.png").touch()
    result = run(".", "none.jpg", "--batch-size", "2")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == ["a.mask.png", "b.mask.png"]
    lines = result.stderr.splitlines()
    assert lines[-1] == "3 of 5 photos failed."
    for name in ("a.bad.jpg", "empty.png", "none.jpg"):
        assert sum(name in line for line in lines) == 1
    assert "Traceback" not in result.stderr


def test_json_tells_of_every_file(run: Run, folder: Path) -> None:
    (folder / "bad.jpg").write_bytes(b"no image")
    result = run("a.jpg", "bad.jpg", "--json", "--threshold", "otsu")
    assert result.exit_code == 1
    done, failed = map(json.loads, result.stdout.splitlines())
    assert (done["input"], done["output"], done["status"]) == ("a.jpg", "a.mask.png", "done")
    assert (done["width"], done["height"]) == (60, 40)
    assert all(0 <= done[key] <= 1 for key in ("threshold", "mask_share", "confidence"))
    assert done["object"] is (done["mask_share"] > 0)
    assert (failed["input"], failed["status"]) == ("bad.jpg", "failed")
    assert "bad.jpg" in failed["error"]


def test_too_little_confidence_is_no_object(run: Run) -> None:
    for least, has_object in (("0", True), ("0.99", False)):
        result = run("a.jpg", "--min-confidence", least, "--json", "--overwrite")
        (told,) = map(json.loads, result.stdout.splitlines())
        assert told["object"] is has_object
        assert 0 < told["confidence"] < 0.99
        assert picture("a.mask.png").any() == has_object


def test_an_output_that_cannot_be_written_fails_alone(run: Run, folder: Path) -> None:
    (folder / "a.mask.png").mkdir()
    result = run("a.jpg", "b.png", "--overwrite")
    assert result.exit_code == 1
    assert result.stdout == "b.mask.png\n"
    assert "a.mask.png" in result.stderr
    assert result.stderr.splitlines()[-1] == "1 of 2 photos failed."


@pytest.mark.parametrize(
    ("args", "advice"),
    [
        ([], "Give a photo, a folder, or --list"),
        (["a.jpg", "--output", "video"], "'video' is not one of"),
        (["a.jpg", "--threshold", "1.5"], "neither otsu nor a number between 0 and 1"),
        (["a.jpg", "--threshold", "high"], "neither otsu nor a number"),
        (["a.jpg", "--size", "2"], "16<=x<=8192"),
        (["a.jpg", "--overwrite", "--resume"], "Choose one"),
        (["a.jpg", "-o", "mask.xyz"], "Use one of .png"),
        (["a.jpg", "-o", "c.jpg", "--output", "cutout"], "no transparency. Use .png"),
        (["a.jpg", "-o", "a.jpg", "--overwrite"], "is an input"),
        (["a.jpg", "b.png", "-o", "deep/c.png"], "is a file"),
        (["a.jpg", "b.png", "-o", "-"], "2 photos cannot share stdout"),
        (["a.jpg", "-o", "-", "--json"], "Drop one"),
        (["a.jpg", "--refine", "crf"], "'crf' is not one of 'none', 'guided', 'colour', 'grabcut'"),
        (["a.jpg", "--min-confidence", "2"], "0<=x<=1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_told_before_anything_is_done(
    run: Run, folder: Path, args: list[str], advice: str
) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert advice in " ".join(result.stderr.split())
    assert result.stdout == ""
    assert files(folder) == PHOTOS


def test_photos_that_would_share_an_output_are_named(run: Run, folder: Path) -> None:
    Image.fromarray(picture("b.png")).save("b.jpg")
    result = run("b.png", "b.jpg", "a.jpg")
    assert result.exit_code == 2
    assert "b.png and b.jpg to" in result.stderr
    assert files(folder) == PHOTOS | {"b.jpg"}


def test_a_device_that_is_not_here_is_an_error(run: Run, folder: Path) -> None:
    result = run("a.jpg", "--device", "cuda:99")
    assert result.exit_code == 1
    assert "cuda:99 cannot be used" in result.stderr
    assert files(folder) == PHOTOS


def test_weights_that_cannot_be_had_exit_with_3(run: Run, folder: Path) -> None:
    for source in ("nowhere", "deep"):
        result = run("a.jpg", "--weights", source)
        assert result.exit_code == 3
        assert result.stderr.startswith("Error: ")
        assert "Traceback" not in result.stderr
    assert files(folder) == PHOTOS


def test_debug_shows_the_traceback(run: Run) -> None:
    result = run("a.jpg", "--weights", "nowhere", "--debug")
    assert result.exit_code == 3
    assert "Traceback" in result.stderr
    assert "Error: " in result.stderr.splitlines()[-1]


def test_auto_says_what_it_took_unless_quiet(run: Run) -> None:
    assert "Using device" in run("a.jpg", "--device", "auto").stderr
    assert run("b.png", "--device", "auto", "--quiet").stderr == ""


def test_settings_reach_the_network(run: Run, folder: Path) -> None:
    run("a.jpg", "--output", "saliency", "-o", "small.png")
    run("a.jpg", "--output", "saliency", "-o", "large.png", "--size", "96")
    run("a.jpg", "--output", "saliency", "-o", "bf16.png", "--precision", "bfloat16")
    for option in ("--refine none", "--refine grabcut"):
        name = f"{option.split('-')[-1]}.png"
        result = run("a.jpg", "--output", "saliency", "-o", name, *option.split())
        assert result.exit_code == 0, result.stderr
        assert (picture(name) != picture("small.png")).any()
    small, large, bf16 = (
        picture(name).astype(int) for name in ("small.png", "large.png", "bf16.png")
    )
    assert (small != large).any()
    assert np.abs(small - bf16).max() <= 5
    refused = run("a.jpg", "--max-pixels", "100")
    assert refused.exit_code == 1
    assert "--max-pixels" in refused.stderr


# As a process of its own


def start(*args: str, **options: object) -> "subprocess.Popen[bytes]":
    # Whoever runs the tests in the background may have had interrupts ignored.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from amd_seg.cli import main; main()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-c", code, *args]
    path = {"PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen(command, env={**os.environ, **path}, **pipes)


def test_ctrl_c_ends_with_130_and_no_traceback(folder: Path, weights: Path) -> None:
    with start("image", "-", "a.jpg", "--weights", str(weights), "-o", "new") as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"Using device")
        # It waits for stdin by now, or will.
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.decode().splitlines() == ["Interrupted."]
    assert not any(name.endswith(".tmp") for name in files(folder))


def test_bytes_go_through_a_pipe(folder: Path, weights: Path) -> None:
    with start("image", "-", "--weights", str(weights), "--quiet") as process:
        data, errors = process.communicate((folder / "a.jpg").read_bytes())
    assert (process.returncode, errors) == (0, b"")
    with Image.open(io.BytesIO(data)) as mask:
        assert mask.size == (60, 40)


# The command itself


def test_env_tells_what_a_bug_report_needs() -> None:
    result = CliRunner().invoke(cli, ["env", "--json"])
    facts = json.loads(result.stdout)
    assert facts["torch"] == torch.__version__.split("+")[0] or facts["torch"] == torch.__version__
    assert "libx264" in facts["video encoders"]
    text = CliRunner().invoke(cli, ["env"])
    assert (text.exit_code, text.stderr) == (0, "")
    assert len(text.stdout.splitlines()) == len(facts)


def test_an_unknown_command_is_wrong_usage() -> None:
    result = CliRunner().invoke(cli, ["imagine"])
    assert result.exit_code == 2
    assert "No such command" in result.stderr


def test_a_name_that_is_none_on_the_hub_is_told() -> None:
    result = CliRunner().invoke(cli, ["weights", "download", "../etc"])
    assert result.exit_code == 3
    assert "that is no name of a repository" in result.stderr


GROUPS = {"download": ["weights"], "info": ["weights"], "onnx": ["export"]}


def test_an_option_that_is_gone_names_its_successor() -> None:
    for name, successor in REMOVED_OPTIONS.items():
        command, option = name.split() if " " in name else ("image", name)
        result = CliRunner().invoke(cli, [*GROUPS.get(command, []), command, "photo.jpg", option])
        assert result.exit_code == 2
        assert f"{option} is gone: {successor}" in result.stderr
    for command in COMMANDS:
        options = {name for p in cli.get_command(None, command).params for name in p.opts}  # type: ignore
        assert not {*options, *(f"{command} {o}" for o in options)} & REMOVED_OPTIONS.keys()


# Files of all photos.


def test_one_coco_file_holds_what_the_masks_show(run: Run, folder: Path) -> None:
    assert run(".", "--recursive", "-o", "masks").exit_code == 0
    result = run(".", "--recursive", "-o", "masks.json", "--output", "coco")
    assert (result.exit_code, result.stdout) == (0, "masks.json\n")
    content = json.loads((folder / "masks.json").read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    assert sorted(names.values()) == ["a.jpg", "b.png", "deep/c.png"]
    assert {"version", "weights", "weights_sha256", "refine"} <= content["info"].keys()
    drawn = {names[a["image_id"]]: runs.decode(a["segmentation"]) for a in content["annotations"]}
    for name in names.values():
        picture = Image.open(folder / "masks" / Path(name).with_suffix(".mask.png"))
        mask = np.asarray(picture) > 0
        assert (drawn.get(name, np.zeros_like(mask)) == mask).all()


def test_a_coco_file_is_gone_on_with(run: Run, folder: Path) -> None:
    flags = ("-o", "masks.json", "--output", "coco")
    assert run(".", *flags).exit_code == 0
    assert "masks.json exists" in run(".", *flags).stderr
    Image.new("RGB", (40, 30)).save(folder / "d.png")
    result = run(".", *flags, "--resume")
    assert result.exit_code == 0
    assert "2 of 3 photos were done before" in result.stderr
    assert len(json.loads((folder / "masks.json").read_text())["images"]) == 3
    (folder / "e.png").write_bytes(b"no photo")
    result = run(".", *flags, "--resume", "--json")
    assert result.exit_code == 1
    assert [json.loads(line)["status"] for line in result.stdout.splitlines()] == [
        *["skipped"] * 3,
        "failed",
    ]
    refused = run(".", *flags, "--resume", "--refine", "none")
    assert refused.exit_code == 2
    assert "refine colour there, none now" in refused.stderr
    refused = run(".", *flags, "--resume", "--mask-format", "polygon")
    assert "mask_format rle there, polygon now" in refused.stderr


def test_yolo_and_label_studio(run: Run, folder: Path) -> None:
    assert run(".", "-o", "labels", "--output", "yolo").exit_code == 0
    assert sorted(path.name for path in (folder / "labels").iterdir()) == ["a.txt", "b.txt"]
    (folder / "b.png").rename(folder / "b & #1.png")
    assert run(".", "-o", "tasks.json", "--output", "labelstudio").exit_code == 0
    first, second = json.loads((folder / "tasks.json").read_text())
    assert first["data"]["image"] == "/data/local-files/?d=a.jpg"
    # It is part of a URL, in which & and # have meanings of their own.
    assert second["data"]["image"] == "/data/local-files/?d=b%20%26%20%231.png"
    assert second["meta"]["file_name"] == "b & #1.png"


def test_a_list_names_the_photos(run: Run, folder: Path) -> None:
    result = run(".", "--recursive", "-o", "out", "--report", "report.html")
    assert result.exit_code == 0
    assert "open report.html" in result.stderr
    assert "deep/c.png" in (folder / "report.html").read_text()
    (folder / "accepted.txt").write_text("deep/c.png\na.jpg\nnowhere.jpg\n")
    result = run("--list", "accepted.txt", "-o", "chosen", "--output", "cutout")
    assert result.exit_code == 1
    assert "nowhere.jpg of the list is no file" in result.stderr
    assert result.stdout.splitlines() == ["chosen/deep/c.cutout.png", "chosen/a.cutout.png"]
    (folder / "d.png").write_bytes((folder / "b.png").read_bytes())
    result = run(".", "--recursive", "-o", "out", "--report", "report.html", "--resume")
    assert "3 of 4 photos were done before" in result.stderr
    assert (folder / "report.html").read_text().count('"file_name"') == 4


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([".", "--output", "coco"], "Name it: -o masks.json"),
        ([".", "--output", "labelstudio", "-o", "out"], "Name it: -o masks.json"),
        (["a.jpg", "--output", "yolo", "-o", "a.png"], "Use .txt, or a folder"),
        ([".", "--mask-format", "polygon"], "--mask-format is for --output coco"),
        ([".", "--split"], "--split is for --output coco and yolo"),
        ([".", "--report", "report.pdf"], "End it in .html"),
        (["--list", "nowhere.txt"], "Cannot read the list nowhere.txt"),
    ],
)
def test_files_of_all_photos_are_asked_for_rightly(
    run: Run, folder: Path, args: list[str], message: str
) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not list(folder.glob("*.part"))


@pytest.mark.parametrize("where", [["-o", "out"], []])
@pytest.mark.parametrize("again", [[], ["--resume"], ["--overwrite"]])
def test_a_name_too_long_for_its_output_fails_alone(
    run: Run, folder: Path, where: list[str], again: list[str]
) -> None:
    (folder / "out").mkdir()
    long = "n" * 249 + ".jpg"
    (folder / "a.jpg").rename(folder / long)
    result = run(".", *where, *again)
    assert result.exit_code == 1, result.output
    assert result.stdout.split("/")[-1] == "b.mask.png\n"
    line, last = result.stderr.splitlines()
    assert "File name too long. Shorten the name" in line
    assert long[:-4] in line
    assert last == "1 of 2 photos failed."
    assert run("b.png", "-o", "o" * 256 + ".png").exit_code in (1, 2)
    assert run("i" * 256 + ".png").exit_code in (1, 2)
    assert not list(folder.rglob(".*.tmp"))


def test_links_to_one_photo_are_photos_of_their_own(run: Run, folder: Path) -> None:
    for name in ("x.jpg", "y.jpg"):
        (folder / name).symlink_to("a.jpg")
    result = run("a.jpg", "x.jpg", "y.jpg", "./a.jpg")
    assert result.stdout.splitlines() == ["a.mask.png", "x.mask.png", "y.mask.png"]
    # What is written through a link is the file that it leads to.
    (folder / "b.mask.png").symlink_to("a.jpg")
    result = run("b.png", "a.jpg", "--overwrite")
    assert (result.exit_code, "is an input" in result.stderr) == (2, True)
