"""Trained tails put back behind what was frozen: whole open_clip models, as stages of a fused one."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.emoji.tail import EMBED, Tail
from benchmarks.emoji.towers import IMAGE_MODEL, SIDE, UNLOCKED, image_trunk
from benchmarks.emoji.wheels import TEXT_TOWER, unpacked
from mcl_clip.fusion.stages import Stage
from mcl_clip.models.stage_model import complete_model_cfg
from mcl_clip.openclip.models import CustomTextCLIP
from mcl_clip.openclip.tokenizers import HFTokenizer


def assembled(tail: Tail, towers: Path) -> Stage:
    """An open_clip model that reads images and token ids, and says what `tail` says of maps and text vectors."""
    folder = str(unpacked(TEXT_TOWER, towers))
    config: dict[str, Any] = {
        "embed_dim": EMBED,
        "vision_cfg": {
            "timm_model_name": IMAGE_MODEL,
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": SIDE,
        },
        "text_cfg": {
            "hf_model_name": folder,
            "hf_tokenizer_name": folder,
            "hf_pooler_type": "mean_pooler",
            "hf_proj_type": "linear",
        },
    }
    model: Any = CustomTextCLIP(**config)
    trunk = model.visual.trunk
    trunk.load_state_dict(image_trunk(towers).state_dict())
    trained = [*trunk.blocks[len(trunk.blocks) - UNLOCKED :], trunk.conv_head, trunk.bn2]
    for mine, other in zip(nn.ModuleList(trained), tail.blocks, strict=False):
        mine.load_state_dict(other.state_dict())
    with torch.no_grad():
        model.visual.head.proj.weight.copy_(tail.image_projection.weight)
        model.text.proj.weight.copy_(tail.text_projection.weight)
        model.logit_scale.copy_(tail.logit_scale)
    halves = (0.5, 0.5, 0.5)
    model.visual.preprocess_cfg = {"size": SIDE, "mean": halves, "std": halves, "resize_mode": "squash"}
    stored = {"model_cfg": complete_model_cfg(model, config), "preprocess_cfg": model.visual.preprocess_cfg}
    return Stage(model.eval(), stored, HFTokenizer(folder), "")
