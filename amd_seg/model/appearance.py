"""Eq. 1: the appearance pathway, a ResNet and a head that cut one frame into regions.

The parameter names of the backbone are torchvision's, so that public ResNet weights load.
Source: paper section 3.1 and table 4; strides, dilations and dropout of the dilated layout as in
the released code. The top-down layout is ours, after feature pyramids (Lin et al., CVPR 2017).
"""

from collections.abc import Iterator
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amd_seg.model.config import AppearanceConfig, SemanticConfig
from amd_seg.model.segment_flow import full_precision

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}
STRIDES = {"dilated": (1, 2, 1, 1), "top-down": (1, 2, 2, 2)}

# Mean and standard deviation of ImageNet's RGB values, in 0..255.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


def convolution(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, dilation: int = 1
) -> nn.Conv2d:
    """A convolution without bias whose padding keeps the grid, up to its stride."""
    padding = dilation * (kernel // 2)
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False)


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The identity where shapes agree, else a 1x1 convolution with normalisation."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(convolution(inputs, outputs, 1, stride=stride), nn.BatchNorm2d(outputs))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a shortcut; the stride sits in the 3x3."""

    expansion = 4

    def __init__(self, inputs: int, width: int, *, stride: int, dilation: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = convolution(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3, stride=stride, dilation=dilation)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = convolution(width, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, features: Tensor) -> Tensor:
        """Map (batch, inputs, height, width) to (batch, expansion * width, height', width')."""
        hidden = F.relu(self.bn1(self.conv1(features)))
        hidden = F.relu(self.bn2(self.conv2(hidden)))
        return F.relu(self.bn3(self.conv3(hidden)) + self.downsample(features))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, *, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = convolution(inputs, width, 3, stride=stride, dilation=dilation)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3, dilation=dilation)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(inputs, width, stride)

    def forward(self, features: Tensor) -> Tensor:
        """Map (batch, inputs, height, width) to (batch, expansion * width, height', width')."""
        hidden = F.relu(self.bn1(self.conv1(features)))
        return F.relu(self.bn2(self.conv2(hidden)) + self.downsample(features))


class ResNet(nn.Module):
    """A ResNet, of output stride 8 with dilated last stages, or of stride 32."""

    def __init__(self, config: AppearanceConfig) -> None:
        super().__init__()
        block = Bottleneck if config.backbone == "resnet50" else BasicBlock
        self.expansion = block.expansion
        inputs = config.stage_widths[0]
        self.conv1 = convolution(3, inputs, 7, stride=2)
        self.bn1 = nn.BatchNorm2d(inputs)
        for index, count in enumerate(BLOCKS[config.backbone]):
            stage = nn.Sequential()
            width, dilation = config.stage_widths[index], config.dilations[index]
            for position in range(count):
                stride = STRIDES[config.layout][index] if position == 0 else 1
                stage.append(block(inputs, width, stride=stride, dilation=dilation))
                inputs = width * block.expansion
            self.add_module(f"layer{index + 1}", stage)
        self.out_channels = inputs

    def stages(self, frames: Tensor) -> Iterator[Tensor]:
        """Yield the stem's output, at stride 2, and those of the four stages."""
        features = F.relu(self.bn1(self.conv1(frames)))
        yield features
        features = F.max_pool2d(features, 3, stride=2, padding=1)
        for name in ("layer1", "layer2", "layer3", "layer4"):
            features = self.get_submodule(name)(features)
            yield features


class ConvNormRelu(nn.Module):
    """A dilated 3x3 convolution, normalised and rectified."""

    def __init__(self, inputs: int, outputs: int, *, dilation: int = 1) -> None:
        super().__init__()
        self.conv = convolution(inputs, outputs, 3, dilation=dilation)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Map (batch, inputs, height, width) to (batch, outputs, height, width)."""
        return F.relu(self.bn(self.conv(features)))


class TopDownHead(nn.Module):
    """A decoder from the whole frame back to its edges: coarse stages are enlarged and added.

    The last step joins the stem and the picture itself on the 1/2 grid.
    """

    def __init__(self, config: AppearanceConfig, stem: int, stages: tuple[int, ...]) -> None:
        super().__init__()
        coarse, quarter, half = config.decoder_channels
        self.context = nn.Conv2d(stages[-1], coarse, 1)
        self.lateral = nn.ModuleList(nn.Conv2d(inputs, coarse, 1) for inputs in stages)
        outputs = (quarter, coarse, coarse, coarse)
        self.merge = nn.ModuleList(ConvNormRelu(coarse, width) for width in outputs)
        self.dropout = nn.Dropout2d(config.dropout)
        self.to_half = nn.Conv2d(quarter, half, 1)
        self.from_stem = nn.Conv2d(stem + 3, half, 1)
        self.draw = nn.Sequential(ConvNormRelu(half, half), ConvNormRelu(half, half))

    def forward(self, frames: Tensor, stages: list[Tensor]) -> Tensor:
        """Map frames, and their stem's and four stages' outputs, to features on the 1/2 grid."""
        stem, *pyramid = stages
        features = self.context(pyramid[-1].mean((2, 3), keepdim=True))
        for level in reversed(range(4)):
            lateral = self.lateral[level](pyramid[level])
            features = self.merge[level](lateral + _enlarged(features, lateral))
        picture = F.avg_pool2d(frames, 2, ceil_mode=True)
        sharp = self.from_stem(torch.cat((stem, picture.to(stem.dtype)), dim=1))
        drawn: Tensor = self.draw(sharp + _enlarged(self.to_half(self.dropout(features)), sharp))
        return drawn


def _enlarged(features: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(features, like.shape[-2:], mode="bilinear", align_corners=False)


class AppearancePathway(nn.Module):
    """Eq. 1 without its softmax: frame -> logits of c region masks, or classes."""

    def __init__(self, config: AppearanceConfig, outputs: int) -> None:
        super().__init__()
        self.backbone = ResNet(config)
        self.head: nn.Sequential | TopDownHead
        if config.layout == "dilated":
            # As released: two dilated convolutions on the last stage's 1/8 grid.
            channels, dilation = config.head_channels, config.head_dilation
            self.head = nn.Sequential(
                ConvNormRelu(self.backbone.out_channels, channels, dilation=dilation),
                ConvNormRelu(channels, channels, dilation=dilation),
                nn.Dropout2d(config.dropout),
            )
        else:
            channels = config.decoder_channels[-1]
            widths = tuple(width * self.backbone.expansion for width in config.stage_widths)
            self.head = TopDownHead(config, config.stage_widths[0], widths)
        self.classifier = nn.Conv2d(channels, outputs, 1)
        # As released: Kaiming fan-out, and the last norm of each block starts at zero.
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module is not self.classifier:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            if isinstance(module, Bottleneck | BasicBlock):
                last = module.bn3 if isinstance(module, Bottleneck) else module.bn2
                nn.init.zeros_(last.weight)

    def forward(self, frames: Tensor) -> Tensor:
        """Map normalised frames (batch, 3, height, width) to logits, (batch, output, ...).

        The grid is that of the frames divided by 8 (dilated layout) or 2 (top-down), rounded up.
        """
        stages = list(self.backbone.stages(frames))
        is_dilated = isinstance(self.head, nn.Sequential)
        features = self.head(stages[-1]) if is_dilated else self.head(frames, stages)
        logits: Tensor = self.classifier(features)
        return logits


class AppearanceModel(nn.Module):
    """A model that takes frames as they are, (batch, 3, height, width), RGB, uint8 or 0..255.

    They are normalised here and nowhere else.
    """

    def __init__(self, config: AppearanceConfig, outputs: int) -> None:
        super().__init__()
        self.appearance = AppearancePathway(config, outputs)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def logits(self, frames: Tensor) -> Tensor:
        """Logits of regions or classes, (batch, output, ...), float32; see `AppearancePathway`."""
        return full_precision(self.appearance(self._normalised(frames)))

    @torch.no_grad()
    def local_features(self, frames: Tensor) -> Tensor:
        """Stage 2, (batch, channel, ceil(height / 8), ceil(width / 8)), without gradients."""
        stages = self.appearance.backbone.stages(self._normalised(frames))
        return full_precision(next(islice(stages, 2, None)))

    def _normalised(self, frames: Tensor) -> Tensor:
        return (frames.to(self.mean.dtype) - self.mean) / self.std


class SemanticNetwork(AppearanceModel):
    """The appearance pathway with a class in the place of each region (paper, section 4.4)."""

    def __init__(self, config: SemanticConfig) -> None:
        super().__init__(config, config.classes)
        self.config = config
