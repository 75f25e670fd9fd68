"""Numbers that others published, to be printed beside ours; in percent, MAE as it is."""

from typing import NamedTuple

NONE = "none"
_FLOW = "classical flow"
_SYNTHETIC = "RAFT flow (synthetic labels)"


class Published(NamedTuple):
    """A row of somebody's table."""

    method: str
    scores: dict[str, str]
    """Name of the metric as its paper has it -> the number."""
    outside_help: str
    """What the method was given besides raw video or pictures."""
    is_secondary: bool = False
    """Taken from elsewhere, and not checked against its own paper."""


# Method, mean J on DAVIS 2016, SegTrack v2 and FBMS-59, outside help.
_VIDEO = (
    ("AMD, per image", "45.7", "28.7", "42.9", NONE),
    ("AMD, per video (100 steps)", "57.8", "57.0", "47.5", NONE),
    ("SAGE", "42.6", "57.6", "61.2", _FLOW),
    ("NLC", "55.1", "67.2", "51.5", "edges, classical flow"),
    ("CUT", "55.2", "54.3", "57.2", _FLOW),
    ("FTS", "55.8", "47.8", "47.7", _FLOW),
    ("ARP", "76.2", "57.2", "59.8", "saliency, classical flow"),
    ("CIS, single model", "59.2", "45.6", "36.8", "PWC-Net flow (synthetic labels)"),
    ("MG with ARFlow", "53.2", "37.8", "50.4", "self-supervised flow network"),
    ("MG with RAFT", "68.3", "58.6", "53.1", _SYNTHETIC),
    ("TokenCut-video with ARFlow", "62.0", "58.9", "61.0", "DINO features"),
    ("OCLR, flow", "72.0", "67.6", "65.5", "synthetic masks, RAFT"),
    ("OCLR, adapted", "80.8", "72.3", "69.9", "synthetic masks, RAFT, DINO"),
    ("RCF", "80.9", "76.7", "69.9", "RAFT, DenseCL, DINO"),
    ("RCF, post-processed", "83.0", "79.6", "72.4", "RAFT, DenseCL, DINO, CRF"),
)
_SECONDARY = {"MG with RAFT", "LOST"}

# Method, F and MAE on DUTS-TE as the AMD paper's table 1 has them.
_TABLE_1 = (
    ("AMD", "60.2", "0.13", NONE),
    ("RBD", "51.0", "0.20", "low-level cues"),
    ("HS", "52.1", "0.23", "low-level cues"),
    ("MC", "52.9", "0.19", "low-level cues"),
    ("DSR", "55.8", "0.14", "low-level cues"),
    ("DRFI", "55.2", "0.15", "masks (supervised)"),
)

# Method, max F, IoU and accuracy on DUTS-TE and on ECSSD, outside help.
_OBJECTS = (
    ("LOST", ("61.1", "51.8", "87.1"), ("75.8", "65.4", "89.5"), "DINO"),
    ("TokenCut", ("67.2", "57.6", "90.3"), ("80.3", "71.2", "91.8"), "DINO"),
    ("TokenCut, solver", ("75.5", "62.4", "91.4"), ("87.4", "77.2", "93.4"), "DINO, bilateral"),
)

# Table 2 of the AMD paper: method, mIoU after fine-tuning, outside help besides VOC's labels.
_FINETUNED = (
    ("from scratch", "48.0", NONE),
    ("TimeCycle, VLOG, light", "52.8", NONE),
    ("MoCo v2, YouTube-VOS, light", "61.5", NONE),
    ("AMD, YouTube-VOS, light", "62.0", NONE),
    ("MoCo v2, YouTube-VOS, heavy", "62.8", NONE),
    ("AMD, YouTube-VOS, heavy", "62.1", NONE),
    ("MoCo v2, ImageNet, heavy", "72.4", "ImageNet's photos, without labels"),
)


def published(dataset: str) -> list[Published]:
    """Return what is known for a data set, by its name; [] where nothing is."""
    places = {"davis2016": 0, "segtrackv2": 1, "fbms59": 2}
    if dataset in places:
        return [
            Published(name, {"J": numbers[places[dataset]]}, outside, name in _SECONDARY)
            for name, *numbers, outside in _VIDEO
        ]
    if dataset == "voc2012":
        return [Published(name, {"mIoU": miou}, outside) for name, miou, outside in _FINETUNED]
    if dataset not in ("duts-te", "ecssd"):
        return []
    rows = [Published(name, {"F": f, "MAE": mae}, outside) for name, f, mae, outside in _TABLE_1]
    for name, on_duts, on_ecssd, outside in _OBJECTS:
        numbers = on_duts if dataset == "duts-te" else on_ecssd
        scores = dict(zip(("max F", "IoU", "Acc"), numbers, strict=True))
        objects = Published(name, scores, outside, name in _SECONDARY)
        rows.append(objects)
    return rows if dataset == "duts-te" else rows[len(_TABLE_1) :]
