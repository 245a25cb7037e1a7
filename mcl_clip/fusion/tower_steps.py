"""A tower as a sequence of steps, so that the first steps of several towers can be compared and shared.

Only the seams are written here: every step calls the tower's own modules and methods. What cannot be
taken apart, or does not give the tower's own result bit for bit on a probe, stays one step.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn

from mcl_clip.models.image_model import ImageModel, ImageTower
from mcl_clip.openclip.models import CLIP, CustomTextCLIP
from mcl_clip.openclip.towers import ModifiedResNet, TextTransformer, TimmModel, VisionTransformer, is_plain
from mcl_clip.openclip.towers import text_global_pool as pool_text

_NO_SEQUENCE = (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
"""What calling modules in an order that is not theirs may raise."""


@dataclass(frozen=True)
class Step:
    """`run` maps a state to the next; `parts` are the modules and tensors that it reads, `root` gives
    attributes.

    Two steps with the same function, equal parts and equal attributes compute the same.
    """

    run: Callable[[Any], Any]
    parts: tuple[nn.Module | Tensor | None, ...]
    root: nn.Module | None = None


@torch.no_grad()
def image_steps(model: Any, split: bool = True) -> list[Step]:
    """Steps from images [B, 3, H, W] to the raw image embedding [B, D] of an open_clip model; one unless
    `split`."""
    visual = model.visual
    whole = [Step(partial(_encode_image, model), (visual,))]
    head: list[Step] = []
    if type(model) is ImageModel:
        whole = [Step(visual, (visual,))]
        head = [Step(model.projection, (model.projection,))] if model.output == "projection" else []
    elif type(model) not in (CLIP, CustomTextCLIP):
        split = False
    return [*(_taken_apart(lambda: _image_steps(visual), whole) if split else whole), *head]


@torch.no_grad()
def text_steps(model: Any, split: bool = True) -> list[Step]:
    """Steps from tokens [B, context] to the raw text embedding [B, D] of an open_clip model; one unless
    `split`."""
    tower = model.text if hasattr(model, "text") else model
    others = tuple(part for name, part in _direct_parts(tower) if name not in ("visual", "logit_scale", "logit_bias"))
    whole = [Step(partial(_encode_text, model), others, tower)]
    return _taken_apart(lambda: _text_steps(model, tower), whole) if split else whole


def run_steps(steps: Iterable[Step], state: Any) -> Any:
    """The steps one after another."""
    for step in steps:
        state = step.run(state)
    return state


def _taken_apart(take: Callable[[], tuple[list[Step], Tensor]], whole: list[Step]) -> list[Step]:
    """The steps that `take` gives, if a probe shows that they are the tower; of another open_clip they may not be."""
    try:
        steps, probe = take()
        return steps if steps and torch.equal(run_steps(steps, probe), run_steps(whole, probe)) else whole
    except _NO_SEQUENCE:
        return whole


def _image_steps(visual: Any) -> tuple[list[Step], Tensor]:
    size = visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    probe = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    probe = probe.to(*reads(visual))
    if type(visual) is VisionTransformer:
        return _vit_steps(visual), probe
    if type(visual) is ModifiedResNet:
        return _resnet_steps(visual), probe
    if type(visual) in (TimmModel, ImageTower):
        return _timm_steps(visual, probe), probe
    return [], probe


def _text_steps(model: Any, tower: Any) -> tuple[list[Step], Tensor]:
    probe = torch.arange(1, tower.context_length + 1, device=tower.token_embedding.weight.device)[None]
    if type(tower) is CLIP:
        embeds: Callable = _clip_embeds
        pooling = (tower.text_pool_type, tower.text_eos_id)
    elif type(tower) is TextTransformer and type(model) is CustomTextCLIP and tower.cls_emb is None:
        embeds, pooling = _text_embeds, (tower.pool_type, tower.eos_id)
    else:
        return [], probe
    if getattr(tower, "output_tokens", False) or not is_plain(tower.transformer):
        return [], probe
    inputs = (tower.token_embedding, tower.positional_embedding, tower.attn_mask)
    steps = [
        Step(partial(embeds, tower), inputs, tower),
        *(Step(partial(_text_block, block), (block,)) for block in tower.transformer.resblocks),
        Step(partial(_text_pool, tower, *pooling), (tower.ln_final, tower.text_projection), tower),
    ]
    return steps, probe % tower.vocab_size


def reads(visual: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and type of the images that a tower reads; norms and class tokens may stay fp32 beside half weights."""
    example = next((p for p in visual.parameters() if p.ndim == 4), next(visual.parameters()))
    return example.device, example.dtype


def _vit_steps(visual: Any) -> list[Step]:
    if visual.output_tokens or not is_plain(visual.transformer):
        return []
    inputs = (
        visual.conv1,
        visual.class_embedding,
        visual.positional_embedding,
        visual.patch_dropout,
        visual.ln_pre,
    )
    outputs = (visual.attn_pool, getattr(visual, "attn_pool_contrastive", None), visual.ln_post, visual.proj)
    return [
        Step(visual._embeds, inputs, visual),
        *(Step(block, (block,)) for block in visual.transformer.resblocks),
        Step(partial(_vit_pool, visual), outputs, visual),
    ]


def _resnet_steps(visual: Any) -> list[Step]:
    stem = tuple(part for name, part in visual.named_children() if not name.startswith(("layer", "attnpool")))
    layers = (*visual.layer1, *visual.layer2, *visual.layer3, *visual.layer4, visual.attnpool)
    return [Step(visual.stem, stem), *(Step(layer, (layer,)) for layer in layers)]


def _timm_steps(tower: Any, probe: Tensor) -> list[Step]:
    trunk = tower.trunk
    if not hasattr(trunk, "forward_features") or not hasattr(trunk, "forward_head"):
        return []
    if type(trunk) is TimmVisionTransformer:
        outputs = ("blocks", "norm", "attn_pool", "fc_norm", "head_drop", "head")
        inputs = tuple(part for name, part in _direct_parts(trunk) if name not in outputs)
        embeds = Step(partial(_timm_embeds, trunk), inputs, trunk)
        body = [embeds, *(Step(block, (block,)) for block in (*trunk.blocks, trunk.norm))]
        rest: tuple = tuple(getattr(trunk, name, None) for name in outputs[2:])
    else:
        body = _trunk_layers(trunk, probe)
        rest = tuple(part for _, part in _direct_parts(trunk))
    return [*body, Step(partial(_timm_head, tower), (*rest, tower.head), trunk)] if body else []


def _trunk_layers(trunk: Any, probe: Tensor) -> list[Step]:
    """The leading children of a trunk that, called in turn, give its features; none when it is no sequence."""
    if any(True for _ in trunk.parameters(recurse=False)):
        return []
    features, state, steps = trunk.forward_features(probe), probe, []
    for layer in trunk.children():
        try:
            more, state = _layer_steps(layer, state)
        except _NO_SEQUENCE:
            return []
        steps += more
        if isinstance(state, Tensor) and state.shape == features.shape and torch.equal(state, features):
            return steps
    return []


def _layer_steps(layer: nn.Module, state: Tensor) -> tuple[list[Step], Tensor]:
    """A layer as steps, and its result. Where its children in turn give that result, they are the steps (a stage of
    ConvNeXt or Swin is downsampling, then blocks); otherwise it is one step."""
    if type(layer) is nn.Sequential:
        return _in_turn(layer, state.clone())
    whole, result = [Step(layer, (layer,))], layer(state.clone())
    own_tensors = (*layer._parameters, *layer._buffers)
    if own_tensors or not any(type(child) is nn.Sequential for child in layer.children()):
        return whole, result
    try:
        steps, last = _in_turn(layer, state.clone())
    except _NO_SEQUENCE:
        return whole, result
    if not torch.equal(last, result):
        return whole, result
    return [Step(step.run, step.parts, step.root or layer) for step in steps], result


def _in_turn(layers: nn.Module, state: Tensor) -> tuple[list[Step], Tensor]:
    steps: list[Step] = []
    for layer in layers.children():
        more, state = _layer_steps(layer, state)
        steps += more
    return steps, state


def _direct_parts(module: nn.Module) -> list[tuple[str, nn.Module | Tensor | None]]:
    return [*module._parameters.items(), *module._buffers.items(), *module._modules.items()]


def _encode_image(model: Any, images: Tensor) -> Tensor:
    return model.encode_image(images, normalize=False)


def _encode_text(model: Any, text: Tensor) -> Tensor:
    return model.encode_text(text, normalize=False)


def _vit_pool(visual: Any, tokens: Tensor) -> Tensor:
    pooled, _ = visual._pool(tokens)
    return pooled if visual.proj is None else pooled @ visual.proj


def _timm_embeds(trunk: Any, images: Tensor) -> Tensor:
    return trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(images))))


def _timm_head(tower: Any, features: Tensor) -> Tensor:
    return tower.head(tower.trunk.forward_head(features))


def _clip_embeds(model: Any, text: Tensor) -> tuple:
    dtype = model.transformer.get_cast_dtype()
    return model.token_embedding(text).to(dtype) + model.positional_embedding.to(dtype), model.attn_mask, text


def _text_embeds(tower: Any, text: Tensor) -> tuple:
    return *tower._embeds(text), text


def _text_block(block: nn.Module, state: tuple) -> tuple:
    x, attn_mask, text = state
    return block(x, attn_mask=attn_mask), attn_mask, text


def _text_pool(tower: Any, pool_type: str, eos_id: int | None, state: tuple) -> Tensor:
    x, _, text = state
    pooled = pool_text(tower.ln_final(x), text, pool_type, eos_token_id=eos_id)
    projection = tower.text_projection
    if projection is None:
        return pooled
    return projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
