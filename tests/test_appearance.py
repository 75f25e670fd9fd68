"""The appearance pathway: torchvision's ResNet under its own names, at an output stride of 8."""

from typing import Literal

import pytest
import torch

from amd_seg.model.appearance import AppearancePathway, ResNet
from amd_seg.model.config import AMDConfig


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_the_backbone_is_torchvision_s_with_other_strides(backbone: str) -> None:
    try:
        import torchvision
    except (ImportError, RuntimeError) as cause:  # its wheels need the very torch they are made for
        pytest.skip(f"torchvision does not import here: {cause}")
    ours = ResNet(AMDConfig(backbone=backbone)).eval()
    theirs = getattr(torchvision.models, backbone)(weights=None).eval()
    loaded = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert loaded.unexpected_keys == []
    assert loaded.missing_keys == ["fc.weight", "fc.bias"]
    for stage, dilation in ((theirs.layer3, 1), (theirs.layer4, 2)):
        for module in stage.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.stride = (1, 1)
                if module.kernel_size == (3, 3):
                    module.dilation = module.padding = (dilation, dilation)
    frames = torch.randn(1, 3, 65, 97)
    features = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(frames))))
    for stage in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
        features = stage(features)
    *_, last = ours.stages(frames)
    torch.testing.assert_close(last, features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 96), (65, 97), (47, 63), (24, 200)])
@pytest.mark.parametrize(("layout", "stride"), [("dilated", 8), ("top-down", 2)])
def test_logits_have_a_share_of_the_frame_rounded_up(
    layout: Literal["dilated", "top-down"], stride: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    widths = {"stage_widths": (8, 8, 16, 16), "decoder_channels": (32, 32, 32), "head_channels": 8}
    config = AMDConfig(backbone="resnet18", layout=layout, regions=3, **widths)
    pathway = AppearancePathway(config, 3).eval()
    for name, value in pathway.named_parameters():
        if name.endswith("layer1.0.bn2.weight"):
            assert not value.any(), name  # a fresh block is the identity, and reaches nowhere
        if name.endswith("bn2.weight"):
            torch.nn.init.ones_(value)
    frames = torch.randn(1, 3, *size, requires_grad=True)
    logits = pathway(frames)
    assert logits.shape == (1, 3, -(-size[0] // stride), -(-size[1] // stride))
    if layout == "top-down":
        # Each place sees the whole frame: the far corner has a say in the near one.
        logits[0, :, 0, 0].sum().backward()
        assert frames.grad[0, :, -16:, -16:].any()
