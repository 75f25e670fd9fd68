"""The appearance pathway: torchvision's ResNet under its own names, at an output stride of 8."""

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


@pytest.mark.parametrize("size", [(40, 56), (41, 57), (47, 63), (24, 200)])
def test_logits_have_an_eighth_of_the_frame_rounded_up(size: tuple[int, int]) -> None:
    config = AMDConfig(
        backbone="resnet18", stage_widths=(8, 8, 8, 8), head_channels=8, head_dilation=1,
        regions=3,
    )  # fmt: skip
    frames = torch.randn(1, 3, *size)
    logits = AppearancePathway(config, 3)(frames)
    assert logits.shape == (1, 3, -(-size[0] // 8), -(-size[1] // 8))


def test_a_fresh_backbone_starts_its_blocks_as_the_identity() -> None:
    pathway = AppearancePathway(AMDConfig(stage_widths=(8, 8, 8, 8)), 5)
    for name, value in pathway.named_parameters():
        if name.endswith("bn3.weight"):
            assert not value.any(), name


@pytest.mark.parametrize("size", [(64, 96), (65, 97), (47, 63), (24, 200)])
def test_the_top_down_layout_draws_on_half_of_the_frame(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    config = AMDConfig(
        backbone="resnet18", layout="top-down", stage_widths=(8, 8, 16, 16),
        decoder_channels=(32, 32, 32), regions=3,
    )  # fmt: skip
    pathway = AppearancePathway(config, 3).eval()
    for name, value in pathway.named_parameters():
        if name.endswith("bn2.weight"):
            torch.nn.init.ones_(value)  # a fresh block is the identity and reaches nowhere
    frames = torch.randn(1, 3, *size, requires_grad=True)
    logits = pathway(frames)
    assert logits.shape == (1, 3, -(-size[0] // 2), -(-size[1] // 2))
    # Each place sees the whole frame: the far corner has a say in the near one.
    logits[0, :, 0, 0].sum().backward()
    assert frames.grad is not None
    assert frames.grad[0, :, -16:, -16:].any()
