"""The demo's towers made about twice as dear: one model for the price of two that are fused."""

from typing import Any

from timm.models import build_model_with_cfg, register_model

from benchmarks.emoji.world import MODEL
from mcl_clip.models.tiny_conv import TinyConv
from mcl_clip.openclip.configs import get_model_config

WIDTHS = (48, 80, 96, 192)
PLAIN: dict[str, Any] = get_model_config(MODEL)
WIDE: dict[str, Any] = {
    "embed_dim": 2 * PLAIN["embed_dim"],
    "vision_cfg": PLAIN["vision_cfg"] | {"timm_model_name": "mcl_tiny_conv_wide"},
    "text_cfg": PLAIN["text_cfg"] | {"width": 92},
}


@register_model
def mcl_tiny_conv_wide(pretrained: bool = False, **kwargs: Any) -> TinyConv:
    """By its timm name."""
    return build_model_with_cfg(TinyConv, "mcl_tiny_conv", pretrained, widths=WIDTHS, **kwargs)
