"""The stages that a fused model is made of, and what they must have in common."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from mcl_clip.errors import UserError
from mcl_clip.fusion.tower_steps import reads
from mcl_clip.models.image_model import is_image_model, with_output
from mcl_clip.openclip.transforms import PreprocessCfg, image_transform_v2

# Short, long, empty, digits, punctuation, accents, other scripts: tokenizers that agree on these are one.
_PROBES = (
    "a photo of a red circle",
    "Two DOGS, 37 cats & an owl's nest; it's raining!",
    "naïve café — 東京 привет",
    "the quick brown fox jumps over the lazy dog " * 40,
    "",
)


@dataclass(frozen=True)
class Stage:
    """One open_clip model, or one of images alone, with its `config`, its tokenizer if any, and where it came from."""

    model: Any
    config: dict[str, Any]
    tokenizer: Any = None
    source: str = ""

    @property
    def preprocess_cfg(self) -> dict[str, Any]:
        """Open_clip's preprocessing, with every default filled in and JSON's types."""
        cfg = vars(PreprocessCfg(**self.model.visual.preprocess_cfg))
        size = cfg["size"]
        cfg["size"] = [size, size] if isinstance(size, int) else list(size)
        return cfg | {"mean": list(cfg["mean"]), "std": list(cfg["std"])}

    @property
    def preprocess(self) -> Any:
        """The transform from a PIL image to a normalised tensor [3, H, W] for evaluation."""
        return image_transform_v2(PreprocessCfg(**self.model.visual.preprocess_cfg), is_train=False)


def giving(stage: Stage, output: str) -> Stage:
    """A stage of images alone whose embedding is its "features" or its "projection"; `UserError` for another."""
    if not is_image_model(stage.config):
        raise UserError(f"{stage.source or 'the stage'} embeds texts too: it has no {output} to choose")
    stage.model.output = output
    return replace(stage, config=with_output(stage.config, output))


def check_stages(stages: Sequence[Stage]) -> None:
    """`UserError` when no single image and no single token sequence can serve all stages.

    Means and standard deviations may differ: the fused model changes the one into the other.
    """
    if not stages:
        raise UserError("a fused model needs at least one stage")
    first = stages[0]
    for number, stage in enumerate(stages[1:], start=1):
        who = f"stage {number} ({stage.source})" if stage.source else f"stage {number}"
        if is_image_model(stage.config) != is_image_model(first.config):
            raise UserError(f"{who} and stage 0 differ in form: one embeds images alone, the other texts too")
        for key in ("size", "mode", "interpolation", "resize_mode", "fill_color"):
            if (ours := stage.preprocess_cfg[key]) != (theirs := first.preprocess_cfg[key]):
                raise UserError(
                    f"{who} reads images with {key} {ours}, stage 0 with {theirs}: "
                    "one image cannot serve both; fuse stages that share it"
                )
        if (ours := reads(stage.model.visual)) != (theirs := reads(first.model.visual)):
            raise UserError(
                f"{who} reads {_placed(*ours)}, stage 0 {_placed(*theirs)}: load all stages with one --precision and "
                "--device"
            )
        if difference := another_text(first.tokenizer, stage.tokenizer):
            raise UserError(f"{who} {difference} stage 0: fuse stages that share tokenizer and context length")
        if (stage.model.logit_bias is None) != (first.model.logit_bias is None):
            raise UserError(f"{who} and stage 0 differ in form: one is sigmoid (SigLIP), the other softmax (CLIP)")


def another_text(ours: Any, theirs: Any) -> str | None:
    """How the second of two tokenizers differs from the first: "reads 77 tokens, not 32 as"; None where they agree."""
    if ours is None or theirs is None:
        return None
    tokens, others = _tokens(ours), _tokens(theirs)
    if tokens.shape != others.shape:
        return f"reads {others.shape[1]} tokens, not {tokens.shape[1]} as"
    if not torch.equal(tokens, others) or vocabulary(theirs) != vocabulary(ours):
        return "has another tokenizer than"
    return None


def vocabulary(tokenizer: Any) -> dict[str, int]:
    """Tokens and their numbers of an open_clip tokenizer; empty when it does not tell."""
    inner: Any = getattr(tokenizer, "tokenizer", None)
    return dict(inner.get_vocab() if hasattr(inner, "get_vocab") else getattr(tokenizer, "encoder", {}))


def _placed(device: torch.device, dtype: torch.dtype) -> str:
    return f"{str(dtype).removeprefix('torch.')} on {device}"


def _tokens(tokenizer: Any) -> torch.Tensor:
    return tokenizer(list(_PROBES))
