"""A convolutional image tower that trains on a laptop's CPU in seconds: the timm model `mcl_tiny_conv`.

Four convolutions end in a 4x4 map of 32-pixel images, and the map is flattened, not averaged: where
something stands, and how often, stays readable. GroupNorm keeps no running statistics, so training and
evaluation agree.
"""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

IMAGE_SIZE = 32


class TinyConv(nn.Module):
    """Images [B, 3, 32, 32] to features [B, num_features], or logits [B, num_classes] with a classifier."""

    def __init__(
        self,
        widths: tuple[int, ...] = (32, 64, 64, 128),
        strides: tuple[int, ...] = (2, 2, 2, 1),
        num_classes: int = 0,
        in_chans: int = 3,
        **_ignored: Any,
    ):
        super().__init__()
        channels = (in_chans, *widths)
        self.blocks = nn.Sequential(
            *(
                _block(before, after, stride)
                for before, after, stride in zip(channels, channels[1:], strides, strict=False)
            )
        )
        side = IMAGE_SIZE
        for stride in strides:
            side //= stride
        self.num_features = widths[-1] * side * side
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier; `global_pool` is timm's argument and has no meaning for a flattened map."""
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Parameter groups from input to output, for locking and layer-wise learning rates."""
        return {"blocks": r"^blocks\.(\d+)"}

    def forward_features(self, images: Tensor) -> Tensor:
        """The last map, [B, C, 4, 4]."""
        return self.blocks(images)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Flatten the map and classify (unless `pre_logits`)."""
        features = features.flatten(1)
        return features if pre_logits else self.head(features)

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))


def _block(before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.GroupNorm(after // 16, after), nn.ReLU()
    )


default_cfgs = generate_default_cfgs(
    {
        "mcl_tiny_conv": {
            "input_size": (3, IMAGE_SIZE, IMAGE_SIZE),
            "num_classes": 0,
            "pool_size": None,
            "first_conv": "blocks.0.0",
            "classifier": "head",
        }
    }
)


@register_model
def mcl_tiny_conv(pretrained: bool = False, **kwargs: Any) -> TinyConv:
    """The tower by its timm name; it has no pretrained weights."""
    return build_model_with_cfg(TinyConv, "mcl_tiny_conv", pretrained, **kwargs)
