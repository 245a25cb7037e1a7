"""The parameters of a tower in layers, from its input to its head, as open_clip 4 divides towers for decayed rates."""

from collections.abc import Sequence
from typing import Any, TypeAlias

from open_clip.hf_model import HFTextEncoder
from timm.models import group_parameters
from torch import nn

from mcl_clip.openclip.models import CLIP
from mcl_clip.openclip.towers import ModifiedResNet, TextTransformer, TimmModel, VisionTransformer

Layer: TypeAlias = Sequence[nn.Module | nn.Parameter]
_HUGGING_FACE = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta"), ("embeddings", "layer")),
    "m2m_100": ("embed_tokens", "layers"),
    "mt5": ("embed_tokens", "block"),
}
"""By transformers' model type: where its embeddings are, and its encoder's blocks."""


def image_layers(model: Any) -> list[Layer] | None:
    """Layers of the image tower, embeddings first, projection last; None for a tower whose insides are unknown."""
    visual = model.visual
    if hasattr(visual, "layer_groups"):
        return [members for _, members in visual.layer_groups()]
    if type(visual) is VisionTransformer:
        inputs = (visual.conv1, visual.class_embedding, visual.positional_embedding, visual.ln_pre)
        return _layers(inputs, visual.transformer.resblocks, visual.ln_post, visual.proj)
    if type(visual) is ModifiedResNet:
        stem = (visual.conv1, visual.bn1, visual.conv2, visual.bn2, visual.conv3, visual.bn3)
        stages = (visual.layer1, visual.layer2, visual.layer3, visual.layer4)
        return [stem, *([stage] for stage in stages), [visual.attnpool]]
    if isinstance(visual, TimmModel) and hasattr(visual.trunk, "group_matcher"):
        by_depth = group_parameters(visual.trunk, visual.trunk.group_matcher())
        layers: list[Layer] = [[visual.trunk.get_parameter(n) for n in by_depth[depth]] for depth in sorted(by_depth)]
        return [*layers, [visual.head]] if _has_parameters(visual.head) else layers
    return None


def text_layers(model: Any) -> list[Layer] | None:
    """Layers of the text tower, like `image_layers`; a Hugging Face tower's pooler is of its head's layer."""
    tower = model.text if hasattr(model, "text") else model
    if hasattr(tower, "layer_groups"):
        return [members for _, members in tower.layer_groups()]
    if type(tower) in (CLIP, TextTransformer):
        inputs = (tower.token_embedding, tower.positional_embedding, getattr(tower, "cls_emb", None))
        return _layers(inputs, tower.transformer.resblocks, tower.ln_final, tower.text_projection)
    if type(tower) is HFTextEncoder and (names := _HUGGING_FACE.get(tower.config.model_type)):
        encoder = getattr(tower.transformer, "encoder", tower.transformer)
        blocks: list[Layer] = [[block] for block in getattr(encoder, names[1])]
        ends: tuple[Any, ...] = (getattr(tower.transformer, "pooler", None), tower.proj)
        head = [each for each in ends if _has_parameters(each)]
        return [[getattr(tower.transformer, names[0])], *blocks, *([head] if head else [])]
    return None


def _has_parameters(module: Any) -> bool:
    return module is not None and any(True for _ in module.parameters())


def _layers(inputs: Sequence[Any], blocks: Any, norm: nn.Module, projection: Any) -> list[Layer]:
    layers: list[Layer] = [[each for each in inputs if each is not None], *([block] for block in blocks)]
    layers[-1] = [*layers[-1], norm]
    return layers if projection is None else [*layers, [projection]]
