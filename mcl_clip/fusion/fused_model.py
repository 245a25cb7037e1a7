"""All stages as one CLIP: an `nn.Module` that stands wherever an open_clip model stands."""

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mcl_clip.errors import UserError
from mcl_clip.fusion.collapse import collapse_images, collapse_texts
from mcl_clip.fusion.combine import check_fusion, fuse_embeddings, weight_shares
from mcl_clip.fusion.shared_blocks import SharedTowers, share_tensors
from mcl_clip.fusion.stages import Stage, check_stages
from mcl_clip.fusion.tower_steps import Step, image_steps, text_steps


class FusedVisual(nn.Module):
    """What open_clip's and CLIP_benchmark's code reads of `model.visual`; calling it encodes images."""

    def __init__(self, stage: Stage, towers: SharedTowers, fuse: Any, output_dim: int):
        super().__init__()
        visual = stage.model.visual
        self.image_size = visual.image_size
        self.preprocess_cfg = dict(visual.preprocess_cfg)
        self.image_mean, self.image_std = self.preprocess_cfg["mean"], self.preprocess_cfg["std"]
        self.output_dim = output_dim
        self.towers, self.fuse = towers, fuse

    def forward(self, images: Tensor) -> Tensor:
        return self.fuse(self.towers(images))


class FusedCLIP(nn.Module):
    """The image and text towers of every stage, in the given order, behind open_clip's interface.

    Images are preprocessed for the first stage, [B, 3, H, W]; tokens are [B, context]. The embedding has
    the sum of the stages' sizes. Blocks that are equal across stages run once and are one tensor in
    memory: the stages' modules are taken over, not copied. `logit_scale` (a logarithm, as open_clip's) is
    the mean of the stages', weighted as the fusion is, `logit_bias` likewise. Built in evaluation mode,
    for inference. `collapsed` gives embeddings of one stage's size whose dot products are the same scores
    (see `collapse`).

    Raises `UserError` when the stages do not read one kind of image and token, the weights do not fit, or
    text towers that differ were to be collapsed.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        fusion: str = "concat",
        weights: Sequence[float] | None = None,
        card: dict[str, Any] | None = None,
        output_dict: bool = False,
        collapsed: bool = False,
    ):
        super().__init__()
        check_stages(stages)
        check_fusion(fusion, weights, len(stages))
        models: list[Any] = [stage.model for stage in stages]
        share_tensors(models)
        self.stages = nn.ModuleList(models).eval()
        self.stage_info = tuple(stages)
        self.fusion, self.weights, self.card = (
            fusion,
            None if weights is None else list(weights),
            dict(card or {}),
        )
        self.output_dict, self.collapsed = output_dict, collapsed
        for number, stage in enumerate(stages[1:], start=1):
            warn_of_moved_statistics(number, stage.model.visual, models[0].visual)

        split = len(stages) > 1
        images = [_image_steps(stage, stages[0], split) for stage in stages]
        texts = [text_steps(model, split) for model in models]
        self._image_towers, self._text_towers = SharedTowers(images), SharedTowers(texts)
        if collapsed and not self.shares_text_tower:
            raise UserError(
                "collapse needs stages that share one text tower bit for bit (train with --lock-text); "
                "these differ, so use the fused model"
            )
        self.dims = [int(config["embed_dim"]) for config in (stage.config["model_cfg"] for stage in stages)]
        output_dim = self.dims[0] if collapsed else sum(self.dims)
        self.visual = FusedVisual(stages[0], self._image_towers, self.fuse_images, output_dim)
        self.context_length = models[0].context_length
        self.vocab_size = getattr(models[0], "vocab_size", None)
        shares = weight_shares(len(stages), self.weights)
        self.logit_scale = nn.Parameter(_mean([model.logit_scale for model in models], shares))
        biases = [model.logit_bias for model in models]
        self.logit_bias = None if biases[0] is None else nn.Parameter(_mean(biases, shares))
        self.eval()

    @property
    def num_stages(self) -> int:
        """How many stages are fused."""
        return len(self.stages)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer that all stages share."""
        return self.stage_info[0].tokenizer

    @property
    def preprocess(self) -> Any:
        """The evaluation transform of the first stage, which all stages share."""
        return self.stage_info[0].preprocess

    @property
    def sharing(self) -> dict[str, dict[str, int]]:
        """Steps (blocks, stems, heads) that run for an input, and that the separate towers would run."""
        towers = {"image": self._image_towers, "text": self._text_towers}
        return {name: {"steps": tower.steps, "separate": tower.separate_steps} for name, tower in towers.items()}

    @property
    def shares_text_tower(self) -> bool:
        """Whether all stages have one text tower, bit for bit."""
        return self._text_towers.all_equal

    def stage_embeddings(self, image: Tensor | None = None, text: Tensor | None = None) -> list[Tensor]:
        """Raw embeddings [B, D_s] of every stage in one pass, of images or of texts."""
        if (image is None) == (text is None):
            raise ValueError("stage_embeddings takes images or texts")
        if text is not None:
            return self._text_towers(text)
        assert image is not None
        return self._image_towers(image)

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """Fused embedding of images."""
        return self.fuse_images(self._image_towers(image), normalize)

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """Fused embedding of tokens."""
        return self.fuse_texts(self._text_towers(text), normalize)

    def forward(self, image: Tensor | None = None, text: Tensor | None = None) -> Any:
        """Open_clip's outputs: image features, text features, logit scale, bias if any; a tuple or a dict."""
        image_features = self.encode_image(image, normalize=True) if image is not None else None
        text_features = self.encode_text(text, normalize=True) if text is not None else None
        scale = self.logit_scale.exp()
        if self.output_dict:
            outputs = {"image_features": image_features, "text_features": text_features, "logit_scale": scale}
            return outputs if self.logit_bias is None else outputs | {"logit_bias": self.logit_bias}
        if self.logit_bias is None:
            return image_features, text_features, scale
        return image_features, text_features, scale, self.logit_bias

    def get_logits(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [images, texts] and their transpose, as open_clip's CLIP gives them."""
        logits = self.logit_scale.exp() * self.encode_image(image, True) @ self.encode_text(text, True).T
        logits = logits if self.logit_bias is None else logits + self.logit_bias
        return logits, logits.T

    def subset(self, indices: Sequence[int]) -> "FusedCLIP":
        """The fused model of some stages, in the given order; modules are shared with this one.

        Weights stay as they are in proportion, fitted ones too, and the card says so: to fit them anew, see
        `fit_pairs.fit_fusion`.
        """
        if not indices or len(set(indices)) != len(indices) or not set(indices) <= set(range(self.num_stages)):
            raise UserError(f"stages {list(indices)} are not distinct numbers from 0 to {self.num_stages - 1}")
        weights = self.weights and [self.weights[index] for index in indices]
        stages = [self.stage_info[index] for index in indices]
        card = dict(self.card)
        if fit := card.get("fit"):
            before = fit.get("stages_kept", range(self.num_stages))
            card["fit"] = fit | {"stages_kept": [before[index] for index in indices]}
        return FusedCLIP(stages, self.fusion, weights, card, self.output_dict, self.collapsed)

    def collapse(self) -> "FusedCLIP":
        """A model of one stage's embedding size with the same scores; `UserError` when text towers differ."""
        collapsed = FusedCLIP(self.stage_info, self.fusion, self.weights, self.card, self.output_dict, collapsed=True)
        collapsed.logit_scale, collapsed.logit_bias = self.logit_scale, self.logit_bias
        return collapsed

    def fuse_images(self, embeddings: list[Tensor], normalize: bool = False) -> Tensor:
        """The image embedding from what `stage_embeddings` gave."""
        fuse = collapse_images if self.collapsed else fuse_embeddings
        return fuse(embeddings, self.fusion, self.weights, normalize)

    def fuse_texts(self, embeddings: list[Tensor], normalize: bool = False) -> Tensor:
        """The text embedding from what `stage_embeddings` gave."""
        if self.collapsed:
            return collapse_texts(embeddings, normalize)
        return fuse_embeddings(embeddings, self.fusion, self.weights, normalize)


def warn_of_moved_statistics(number: int, visual: nn.Module, base: nn.Module) -> None:
    """Warn when BatchNorm weights equal the first stage's but the running statistics do not: a leaky lock."""
    norms = dict(base.named_modules())
    moved = [
        name
        for name, module in visual.named_modules()
        if isinstance(module, _BatchNorm)
        and isinstance(other := norms.get(name), _BatchNorm)
        and module.weight is other.weight
        and module.running_mean is not other.running_mean
    ]
    if moved:
        warnings.warn(
            f"stage {number} keeps the weights of stage 0's {moved[0]} but its BatchNorm statistics moved in "
            f"training ({len(moved)} layers): blocks from there on run once a stage; train with "
            "--lock-image-freeze-bn-stats to share them",
            stacklevel=3,
        )


def _image_steps(stage: Stage, first: Stage, split: bool) -> list[Step]:
    ours, theirs = stage.preprocess_cfg, first.preprocess_cfg
    steps = image_steps(stage.model, split)
    if (ours["mean"], ours["std"]) == (theirs["mean"], theirs["std"]):
        return steps
    factor = tuple(b / a for a, b in zip(ours["std"], theirs["std"], strict=True))
    pairs = zip(ours["mean"], ours["std"], theirs["mean"], strict=True)
    offset = tuple((other - mean) / std for mean, std, other in pairs)
    return [Step(partial(_renormalise, factor, offset), ()), *steps]


def _renormalise(factor: tuple[float, ...], offset: tuple[float, ...], images: Tensor) -> Tensor:
    return images * images.new_tensor(factor)[:, None, None] + images.new_tensor(offset)[:, None, None]


def _mean(values: list[Tensor], shares: list[float]) -> Tensor:
    if all(torch.equal(value, values[0]) for value in values):
        return values[0].detach().clone()
    terms = [value.detach().double() * share for value, share in zip(values, shares, strict=True)]
    return torch.stack(terms).sum(0).to(values[0].dtype)
