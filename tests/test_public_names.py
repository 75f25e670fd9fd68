"""The names and options that users rely on: a change here is a change of the face."""

import inspect

import click
import pytest

import amd_seg
from amd_seg.cli import COMMANDS, cli
from tests.processes import commands

PUBLIC_NAMES = (
    "AMD AMDConfig AdaptationConfig AdaptationReport AmdSegError ConfigError DeviceError "
    "ExportError FrameSegmentation InputError MediaError Segmentation Segmenter "
    "SemanticSegmentation SemanticSegmenter TrainingDivergedError VideoReport VideoSegmenter "
    "WeightsError __version__ export_onnx open_video write_adaptation_page"
)
SEGMENTATION = (
    "alpha clicked confidence cutout encode exclude facts include mask min_confidence "
    "object_channel overlay photo refine region_masks regions render saliency save source things "
    "threshold threshold_rule"
)
ATTRIBUTES = {
    "Segmenter": "config device from_pretrained model precision region_masks stream",
    "Segmentation": SEGMENTATION,
    "SemanticSegmenter": "classes config device from_pretrained model precision stream",
    "SemanticSegmentation": "classes encode facts labels overlay photo render save shares source "
    "things",
    "VideoSegmenter": "adapt from_pretrained reset save segmenter write",
    "FrameSegmentation": f"{SEGMENTATION} index time",
    "VideoReport": "confidence frames hdr height is_truncated mask_share path width",
    "AdaptationReport": "channel evidence examples held_out is_adapted loss_after loss_before "
    "losses margin objective reason seconds steps",
}

SIGNATURES = {
    "Segmenter": "(model, config, *, device='auto', precision='float32')",
    **dict.fromkeys(
        [f"{kind}Segmenter.from_pretrained" for kind in ("", "Semantic", "Video")],
        "(source=None, *, device='auto', precision='float32')",
    ),
    "Segmenter.__call__": "(self, image, *, include=(), exclude=(), **options)",
    "Segmenter.stream": "(self, images, *, size=None, threshold=None, refine='colour', "
    "min_confidence=0.0, batch_size=8, max_pixels=200000000)",
    "Segmenter.region_masks": "(self, frames)",
    "SemanticSegmenter": "(model, config, *, device='auto', precision='float32')",
    "SemanticSegmenter.__call__": "(self, image, **options)",
    "SemanticSegmenter.stream": "(self, images, *, size=None, slide=False, flip=False, "
    "batch_size=8, max_pixels=200000000)",
    "SemanticSegmentation": "(photo, labels, classes)",
    "SemanticSegmentation.save": "(self, path, output='labels')",
    "Segmentation": "(photo, region_masks, object_channel, threshold_rule=0.5, refine='none', "
    "min_confidence=0.0, include=(), exclude=())",
    "Segmentation.clicked": "(self, include=(), exclude=())",
    "Segmentation.render": "(self, output='mask')",
    "Segmentation.encode": "(self, output='mask')",
    "Segmentation.save": "(self, path, output='mask')",
    "VideoSegmenter": "(segmenter)",
    "VideoSegmenter.__call__": "(self, source, **options)",
    "VideoSegmenter.write": "(self, source, target, *, output='mask', background=None, "
    "overwrite=False, on_frame=None, info=None, **options)",
    "VideoSegmenter.adapt": "(self, source, config=None, *, steps=None, channel=None, "
    "include=(), exclude=(), on_step=None)",
    "VideoSegmenter.save": "(self, folder)",
    "write_adaptation_page": "(path, clip, report, config, *, released, adapted, overwrite=False, "
    "**call)",
    "export_onnx": "(path, weights=None, *, overwrite=False)",
    "open_video": "(source, *, start=None, end=None, every=1, frame_rate=24, short_edge=None)",
}

OPTIONS = {
    "image": "[INPUT]... --out --output --mask-format --split --report --include --exclude "
    "--threshold --refine --min-confidence --weights --size --device --precision --batch-size "
    "--max-pixels --list --recursive --shard --overwrite --resume --json --quiet --help",
    "train": "[VIDEOS...] --init --objective --targets --out --preset --device --resume "
    "--precision --steps --minutes --batch-size --accumulate --learning-rate --crop --seed "
    "--workers --checkpoint-every --set --quiet --help",
    "finetune": "[voc2012 DIR | coco JSON IMAGES] --images --masks --classes "
    "--coloured-masks --split --weights --out --preset --device --resume --precision --steps "
    "--minutes --batch-size --accumulate --learning-rate --crop --seed --workers "
    "--checkpoint-every --set --quiet --help",
    "video": "INPUT --out --output --background --start --end --every --frame-rate --adapt "
    "--steps --objective --blend --seed --channel --include --exclude --save-adapted "
    "--report --threshold --refine --min-confidence --weights --size --device --precision "
    "--batch-size --overwrite --json --quiet --help",
    "weights convert": "FILE --out --overwrite --help",
    "weights download": "REPO --help",
    "weights info": "NAME --json --help",
    "weights list": "--json --help",
    "evaluate": "[DATASET DIR] --images --masks --predictions --method --weights "
    "--size --device --precision --batch-size --refine --adapt --steps --objective --blend "
    "--seed --threshold --resize-masks --classes --coloured-masks --slide --flip --every "
    "--limit --workers --per-sequence --json --sheet --overwrite --quiet --help",
    "demo": "--port --no-browser --weights --device --precision --quiet --help",
    "export onnx": "--out --weights --overwrite --quiet --help",
    "env": "--json --quiet --help",
}


def test_the_package_offers_these_names() -> None:
    assert amd_seg.__all__ == dir(amd_seg) == PUBLIC_NAMES.split()
    for name in PUBLIC_NAMES.split():
        assert getattr(amd_seg, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Segmentor'"):
        amd_seg.Segmentor  # noqa: B018


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_objects_have_these_attributes(name: str) -> None:
    kind, listed = getattr(amd_seg, name), set(ATTRIBUTES[name].split())
    public = {n for n in dir(kind) if not n.startswith("_")}
    public |= set(getattr(kind, "__dataclass_fields__", ()))
    in_init = set(inspect.getattr_static(kind, "__init__").__code__.co_names)
    assert public <= listed <= public | in_init


@pytest.mark.parametrize("name", SIGNATURES)
def test_calls_take_these_arguments(name: str) -> None:
    target = amd_seg
    for part in name.split("."):
        target = getattr(target, part)
    signature = inspect.signature(target)
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    plain = signature.replace(parameters=bare, return_annotation=signature.empty)
    assert str(plain) == SIGNATURES[name]


def test_commands_take_these_options() -> None:
    found = {}
    for name, command in commands():
        if not isinstance(command, click.Group):
            context = click.Context(command)
            found[name.removeprefix("amd-seg ")] = " ".join(
                p.make_metavar(context) if isinstance(p, click.Argument) else p.opts[-1]
                for p in command.get_params(context)
            )
    assert found == OPTIONS


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_one_line_for_each_command(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.help is not None
    assert " ".join(command.help.split("\n\n")[0].split()) == COMMANDS[name][1]
