import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as runs

from amd_seg import Segmenter
from amd_seg.cli import REMOVED_OPTIONS
from tests.processes import (
    CODE,
    ENVIRONMENT,
    Run,
    contents,
    good,
    interrupted,
    invoke,
    refused,
    runner,
    start,
)

PHOTOS = {"a.jpg", "b.png", "deep/c.png"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with two photos in it and one below it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    for seed, name in enumerate(sorted(PHOTOS)):
        pixels = np.random.default_rng(seed).integers(0, 255, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    return tmp_path


@pytest.fixture
def run(folder: Path, weights: Path) -> Run:
    return runner("image", weights)


def read(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize("settings", [{}, {"size": 96, "refine": "none", "threshold": 0.3}])
def test_one_photo_gives_a_mask_beside_it(
    run: Run, folder: Path, weights: Path, settings: dict[str, Any]
) -> None:
    flags = [f"--{name}={value}" for name, value in settings.items()]
    result = run("a.jpg", *flags)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "a.mask.png\n", "")
    assert contents(folder).keys() == PHOTOS | {"a.mask.png"}
    expected = Segmenter.from_pretrained(weights, device="cpu")("a.jpg", **settings).mask
    np.testing.assert_array_equal(read("a.mask.png"), expected * np.uint8(255))
    assert "Using device" in run("b.png", "--device", "auto").stderr
    assert run("b.png", "--device", "auto", "--overwrite", "--quiet").stderr == ""


@pytest.mark.parametrize(
    ("args", "outputs"),
    [
        ("a.jpg -o m.tiff", "m.tiff"),
        ("a.jpg -o deep", "deep/a.mask.png"),
        ("a.jpg -o new/", "new/a.mask.png"),
        ("a.jpg b.png -o new", "new/a.mask.png new/b.mask.png"),
        (". ./a.jpg", "a.mask.png b.mask.png"),
        ("*.jpg -o new", "new/a.mask.png"),
        (". --recursive -o o --output cutout", "o/a.cutout.png o/b.cutout.png o/deep/c.cutout.png"),
        ("deep --output regions", "deep/c.regions.png"),
        (". -o labels --output yolo", "labels/a.txt labels/b.txt"),
        # A photo by another name is a photo of its own.
        ("a.jpg deep/x.jpg ./a.jpg", "a.mask.png deep/x.mask.png"),
        # By a link to its folder it is the same photo.
        ("a.jpg link/a.jpg", "a.mask.png"),
    ],
)
def test_outputs_go_where_they_are_told(run: Run, folder: Path, args: str, outputs: str) -> None:
    if "x.jpg" in args:
        (folder / "deep" / "x.jpg").symlink_to("../a.jpg")
    if "link" in args:
        (folder / "link").symlink_to(".")
    before = contents(folder).keys()
    result = good(run(*args.split()))
    assert contents(folder).keys() == before | set(outputs.split())
    assert [str(Path(line)) for line in result.stdout.splitlines()] == outputs.split()
    # What the command wrote is no photo in a folder, and stays unless it is told otherwise.
    assert "Use --overwrite" in refused(run(*args.split()))
    assert run(*args.split(), "--overwrite").stdout == result.stdout


def test_stdin_and_stdout(run: Run, folder: Path) -> None:
    photo = (folder / "a.jpg").read_bytes()
    through, to_stdout = run("-", stdin=photo), run("a.jpg", "-o", "-", "--output", "cutout")
    run("-", "b.png", "-o", "new", stdin=photo)
    with Image.open(io.BytesIO(through.stdout_bytes)) as mask:
        np.testing.assert_array_equal(np.asarray(mask), read("new/stdin.mask.png"))
    with Image.open(io.BytesIO(to_stdout.stdout_bytes)) as cutout:
        assert (cutout.format, cutout.mode) == ("PNG", "RGBA")
    assert contents(folder).keys() == PHOTOS | {"new/stdin.mask.png", "new/b.mask.png"}
    lines = run("a.jpg", "-o", "-", "--output", "yolo").stdout
    run("a.jpg", "-o", "a.txt", "--output", "yolo")
    assert lines == (folder / "a.txt").read_text()
    (folder / "-").symlink_to("a.jpg")
    run("./-", "-o", "named.png")
    np.testing.assert_array_equal(read("named.png"), read("new/stdin.mask.png"))


def test_a_name_that_is_no_text_is_printed_in_any_locale(folder: Path, weights: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    try:
        (folder / name).symlink_to("a.jpg")
    except OSError:
        pytest.skip("the file system takes no name that is no text")
    strict = {**ENVIRONMENT, "PYTHONIOENCODING": "utf-8:strict"}
    command = [sys.executable, "-c", CODE, "image", name, "--weights", weights, "--device", "cpu"]
    done = subprocess.run(command, env=strict, capture_output=True, check=True)
    assert done.stdout == b"caf\xe9.mask.png\n"


def test_resuming_skips_what_is_done(run: Run, folder: Path) -> None:
    (folder / "a.mask.png").write_text("mine")
    resumed = run("a.jpg", "b.png", "--resume")
    assert (resumed.exit_code, resumed.stdout) == (0, "b.mask.png\n")
    assert "1 of 2 photos were done before" in resumed.stderr
    assert (folder / "a.mask.png").read_text() == "mine"
    # What is done needs no weights.
    result = run("a.jpg", "--resume", "--weights", "nowhere", "--json")
    done = {"input": "a.jpg", "output": "a.mask.png", "status": "skipped"}
    assert (result.exit_code, json.loads(result.stdout)) == (0, done)


@pytest.mark.parametrize("flags", [("-o", "out"), ("-o", "masks.json", "--output", "coco")])
def test_a_page_made_later_leaves_corrected_masks_alone(
    run: Run, folder: Path, flags: tuple[str, ...]
) -> None:
    assert run(".", *flags).exit_code == 0
    path = folder / "masks.json" if "coco" in flags else folder / "out" / "a.mask.png"
    if "coco" in flags:
        path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": []}))
    else:
        path.write_text("mine")
    before = path.read_text()
    result = run(".", *flags, "--resume", "--report", "page.html", "--json")
    told = [json.loads(line)["status"] for line in result.stdout.splitlines()]
    assert (result.exit_code, told) == (0, ["skipped", "skipped"])
    assert (folder / "page.html").read_text().count('"file_name"') == 2
    after = path.read_text()
    assert (json.loads(after)["annotations"] == []) if "coco" in flags else after == before


def test_shards_share_the_photos_whatever_else_is_there(run: Run, folder: Path) -> None:
    def parts() -> list[set[str]]:
        command = ("deep", "-o", "out", "--resume", "--shard")
        return [{*run(*command, f"{k}/3").stdout.split()} for k in (1, 2, 3)]

    for index in range(9):
        Image.new("RGB", (9, 8)).save(folder / "deep" / f"{index}.png")
    first = parts()
    assert sum(map(len, first)) == len(set.union(*first)) == 10
    # An output less and another photo: nothing else moves to another part.
    (folder / min(first[1])).unlink()
    (folder / "a.jpg").rename(folder / "deep" / "a.jpg")
    assert [part - {"out/a.mask.png"} for part in parts()] == [set(), {min(first[1])}, set()]


def test_a_bad_file_never_stops_a_batch(run: Run, folder: Path) -> None:
    (folder / "a.bad.jpg").write_bytes(b"no image")
    (folder / "empty.png").touch()
    (folder / "b.mask.png").mkdir()
    long = "n" * 249
    (folder / "deep" / "c.png").rename(f"{long}.png")
    result = run(".", "none.jpg", "--batch-size", "2", "--overwrite")
    assert (result.exit_code, result.stdout) == (1, "a.mask.png\n")
    lines = result.stderr.splitlines()
    assert lines[-1] == "5 of 6 photos failed."
    for name in ("a.bad.jpg", "empty.png", "none.jpg", "b.mask.png", f"{long}.mask.png: File name"):
        assert sum(name in line for line in lines) == 1
    assert "Traceback" not in result.stderr
    assert not list(folder.rglob(".*.tmp"))
    (folder / "a.jpg").unlink()
    assert "only files that amd-seg wrote" in run("a.mask*").stderr
    # An empty variable of a shell is not the folder that one is in.
    assert "No image found at: ''" in run("").stderr


def test_json_tells_of_every_file(run: Run, folder: Path) -> None:
    (folder / "bad.jpg").write_bytes(b"no image")
    result = run("a.jpg", "bad.jpg", "--json", "--threshold", "otsu")
    done, failed = map(json.loads, result.stdout.splitlines())
    assert all(0 <= done.pop(key) <= 1 for key in ("threshold", "mask_share", "confidence"))
    photo = {"input": "a.jpg", "output": "a.mask.png", "width": 60, "height": 40}
    assert done == {**photo, "status": "done", "object": True}
    assert "bad.jpg" in failed.pop("error")
    assert (result.exit_code, failed) == (1, {"input": "bad.jpg", "status": "failed"})
    # Too little confidence is no object.
    result = run("a.jpg", "--min-confidence", "0.99", "--json", "--overwrite")
    assert (json.loads(result.stdout)["object"], read("a.mask.png").any()) == (False, False)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ("", 2, "Give a photo, a folder, or --list"),
        ("a.jpg --threshold 1.5", 2, "neither otsu nor a number between 0 and 1"),
        ("a.jpg --overwrite --resume", 2, "Choose one"),
        ("a.jpg -o mask.xyz", 2, "cannot hold mask. Use .png, .jpg"),
        ("a.jpg -o c.jpg --output cutout", 2, "cannot hold cutout. Use .png, .webp"),
        ("a.jpg -o a.jpg --overwrite", 2, "is an input"),
        ("a.jpg b.png -o deep/c.png", 2, "is a file"),
        ("a.jpg b.png -o -", 2, "2 photos cannot share stdout"),
        ("a.jpg -o - --json", 2, "Drop one"),
        ("a.jpg --refine crf", 2, "'crf' is not one of 'none', 'guided', 'ranking', 'grabcut'"),
        *((f"a.jpg --shard {s}", 2, "such as 1/64") for s in ("0/3", "4/3", "3", "a/b")),
        (". -o m.json --output coco --shard 1/2", 2, "Parts cannot share m.json"),
        (". --output coco", 2, "Name it: -o masks.json"),
        ("a.jpg --output yolo -o a.png", 2, "Use .txt, or a folder"),
        (". --mask-format polygon", 2, "--mask-format is for --output coco"),
        (". --split", 2, "--split is for --output coco and yolo"),
        (". --report report.pdf", 2, "End it in .html"),
        (". --output coco -o m.json --report report.pdf", 2, "End it in .html"),
        ("a.jpg --include 400,5", 2, "400,5. As it is shown it has 60x40"),
        ("a.jpg --include 12;40", 2, "'12;40' is no point. Give X,Y such as 320,240"),
        ("a.jpg b.png --include 5,5", 2, "choose an object in one photo, not in 2"),
        ("--list nowhere.txt", 2, "'nowhere.txt': No such file"),
        ("--list ../utf16.txt", 2, "utf16.txt is no UTF-8"),
        ("deep/c.png deep/c.jpg a.jpg", 2, "c.png and deep/c.jpg to"),
        ("a.jpg --device cuda:99", 1, "cuda:99 cannot be used"),
        ("a.jpg --weights nowhere", 3, "nowhere"),
        ("a.jpg --weights deep", 3, "deep"),
        ("a.jpg --max-pixels 100", 1, "--max-pixels"),
        ("a.jpg -o nowhere/m.png", 1, "Make its folder first"),
    ],
)
def test_faults_end_with_their_exit_code_and_leave_no_file(
    run: Run, folder: Path, args: str, code: int, message: str
) -> None:
    (folder / "deep" / "c.jpg").symlink_to("../a.jpg")
    (folder.parent / "utf16.txt").write_text("*.jpg", "utf-16")
    result = run(*args.split())
    assert message in refused(result, code)
    assert code == 2 or result.stderr.startswith("Error: ")
    assert contents(folder).keys() == PHOTOS | {"deep/c.jpg"}
    if code == 3:
        assert "Traceback" in run(*args.split(), "--debug").stderr


def test_ctrl_c_ends_with_130_and_no_traceback(folder: Path, weights: Path) -> None:
    with start("image", "-", "a.jpg", "--weights", str(weights), "-o", "new") as process:
        assert process.stderr.readline().startswith(b"Using device")
        # It waits for stdin by now, or will.
        assert interrupted(process) == ["Interrupted."]
    assert not any(name.endswith(".tmp") for name in contents(folder))


def test_one_coco_file_holds_what_the_masks_show(run: Run, folder: Path) -> None:
    assert run(".", "--recursive", "-o", "masks").exit_code == 0
    result = run(".", "--recursive", "-o", "masks.json", "--output", "coco")
    assert (result.exit_code, result.stdout) == (0, "masks.json\n")
    content = json.loads((folder / "masks.json").read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    assert set(names.values()) == PHOTOS
    assert {"version", "weights", "weights_sha256", "refine"} <= content["info"].keys()
    drawn = {names[a["image_id"]]: runs.decode(a["segmentation"]) for a in content["annotations"]}
    for name in PHOTOS:
        mask = read(str(Path("masks", name).with_suffix(".mask.png"))) > 0
        assert (drawn.get(name, np.zeros_like(mask)) == mask).all()


def test_a_file_without_a_photo_is_whole(run: Run, folder: Path) -> None:
    (folder / "bad.jpg").write_text("no photo")
    assert run("bad.jpg", "-o", "masks.json", "--output", "coco").exit_code == 1
    assert json.loads((folder / "masks.json").read_text())["images"] == []
    assert contents(folder).keys() == PHOTOS | {"bad.jpg", "masks.json"}


@pytest.mark.parametrize("layout", ["coco", "labelstudio"])
def test_a_file_of_all_photos_is_gone_on_with(run: Run, folder: Path, layout: str) -> None:
    (folder / "b.png").rename(folder / "b & #1.png")
    flags = (".", "-o", "masks.json", "--output", layout)
    assert run(*flags).exit_code == 0
    assert "masks.json exists" in run(*flags).stderr
    Image.new("RGB", (40, 30)).save(folder / "d.png")
    (folder / "e.png").write_bytes(b"no photo")
    result = run(*flags, "--resume", "--json")
    told = [json.loads(line)["status"] for line in result.stdout.splitlines()]
    assert (result.exit_code, told) == (1, ["skipped", "skipped", "done", "failed"])
    content = json.loads((folder / "masks.json").read_text())
    rows = content["images"] if layout == "coco" else [task["meta"] for task in content]
    assert [row["file_name"] for row in rows] == ["a.jpg", "b & #1.png", "d.png"]
    if layout == "coco":
        assert "size None there, 64 now" in refused(run(*flags, "--resume", "--size", "64"))
    else:  # It is part of a URL, in which & and # have meanings of their own.
        assert content[1]["data"]["image"] == "/data/local-files/?d=b%20%26%20%231.png"
    (folder / "masks.json").write_text("[1]")
    assert f"it is no {layout} file" in run(*flags, "--resume").stderr


def test_a_list_names_the_photos(run: Run, folder: Path) -> None:
    flags = (".", "--recursive", "-o", "out", "--report", "report.html")
    assert "open report.html" in run(*flags).stderr
    assert "deep/c.png" in (folder / "report.html").read_text()
    (folder / "accepted.txt").write_text("./deep/c.png\na.jpg\nnowhere.jpg\n")
    result = run("--list", "accepted.txt", "-o", "chosen", "--output", "cutout")
    assert (result.exit_code, "No image found at: nowhere.jpg" in result.stderr) == (1, True)
    assert result.stdout.splitlines() == ["chosen/deep/c.cutout.png", "chosen/a.cutout.png"]
    (folder / "d.png").write_bytes((folder / "b.png").read_bytes())
    assert "3 of 4 photos were done before" in run(*flags, "--resume").stderr
    assert (folder / "report.html").read_text().count('"file_name"') == 4


def test_env_tells_what_a_bug_report_needs() -> None:
    facts = json.loads(invoke("env", "--json").stdout)
    assert torch.__version__.startswith(facts["torch"])
    assert "libx264" in facts["video encoders"]
    assert invoke("env").stdout.count("\n") == len(facts)


GROUPS = {"download": ["weights"], "info": ["weights"], "onnx": ["export"]}


def test_what_is_no_command_and_what_is_no_option_any_more() -> None:
    assert "No such command" in invoke("imagine").stderr
    for name, successor in REMOVED_OPTIONS.items():
        command, option = name.split() if " " in name else ("image", name)
        result = invoke(*GROUPS.get(command, []), command, "photo.jpg", option)
        assert f"{option} is gone: {successor}" in refused(result)
