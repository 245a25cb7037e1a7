"""ResNets for images below 96 pixels, as SimCLR has them for CIFAR: a 3x3 stem of stride 1 without max-pooling.

timm models after `import mcl_clip`: mcl_resnet18_small, mcl_resnet50_small. They have no pretrained weights.
"""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

SMALL = 96
"""Pixels: below, the usual stem leaves too little of an image."""


class SmallStemResNet(ResNet):
    """timm's ResNet with another beginning."""

    conv1: Any
    maxpool: Any

    def __init__(self, in_chans: int = 3, **kwargs: Any) -> None:
        super().__init__(in_chans=in_chans, **kwargs)
        self.conv1 = nn.Conv2d(in_chans, 64, 3, 1, 1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.maxpool = nn.Identity()


default_cfgs = generate_default_cfgs(
    {
        name: {
            "input_size": (3, 32, 32),
            "num_classes": 0,
            "pool_size": (4, 4),
            "crop_pct": 1.0,
            "interpolation": "bicubic",
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "first_conv": "conv1",
            "classifier": "fc",
        }
        for name in ("mcl_resnet18_small", "mcl_resnet50_small")
    }
)


@register_model
def mcl_resnet18_small(pretrained: bool = False, **kwargs: Any) -> SmallStemResNet:
    """ResNet-18."""
    layers: dict[str, Any] = {"block": BasicBlock, "layers": (2, 2, 2, 2)}
    return build_model_with_cfg(SmallStemResNet, "mcl_resnet18_small", pretrained, **layers, **kwargs)


@register_model
def mcl_resnet50_small(pretrained: bool = False, **kwargs: Any) -> SmallStemResNet:
    """ResNet-50."""
    layers: dict[str, Any] = {"block": Bottleneck, "layers": (3, 4, 6, 3)}
    return build_model_with_cfg(SmallStemResNet, "mcl_resnet50_small", pretrained, **layers, **kwargs)
