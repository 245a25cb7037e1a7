"""All stages as one CLIP: an `nn.Module` that stands wherever an open_clip model stands."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mcl_clip.errors import UserError
from mcl_clip.fusion.collapse import collapse_images, collapse_texts
from mcl_clip.fusion.combine import fuse_embeddings, weight_shares
from mcl_clip.fusion.fused_images import FusedImages
from mcl_clip.fusion.shared_blocks import SharedTowers
from mcl_clip.fusion.stages import Stage
from mcl_clip.fusion.tower_steps import text_steps
from mcl_clip.models.image_model import is_image_model


class FusedCLIP(FusedImages):
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
        super().__init__(stages, fusion, weights, card)
        models: list[Any] = [stage.model for stage in stages]
        self.output_dict, self.collapsed = output_dict, collapsed
        self._text_towers = SharedTowers([text_steps(model, len(stages) > 1) for model in models])
        if collapsed and not self.shares_text_tower:
            raise UserError(
                "collapse needs stages that share one text tower bit for bit (train with --lock-text); "
                "these differ, so use the fused model"
            )
        if collapsed:
            self.visual.output_dim = self.dims[0]
        self.context_length = models[0].context_length
        self.vocab_size = getattr(models[0], "vocab_size", None)
        shares = weight_shares(len(stages), self.weights)
        self.logit_scale = nn.Parameter(_mean([model.logit_scale for model in models], shares))
        biases = [model.logit_bias for model in models]
        self.logit_bias = None if biases[0] is None else nn.Parameter(_mean(biases, shares))
        self.eval()

    @property
    def sharing(self) -> dict[str, dict[str, int]]:
        """Steps (blocks, stems, heads) that run for an input, and that the separate towers would run."""
        text = {"steps": self._text_towers.steps, "separate": self._text_towers.separate_steps}
        return {**super().sharing, "text": text}

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
        stages, weights = self._chosen(indices)
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
        if self.collapsed:
            return collapse_images(embeddings, self.fusion, self.weights, normalize)
        return super().fuse_images(embeddings, normalize)

    def fuse_texts(self, embeddings: list[Tensor], normalize: bool = False) -> Tensor:
        """The text embedding from what `stage_embeddings` gave."""
        if self.collapsed:
            return collapse_texts(embeddings, normalize)
        return fuse_embeddings(embeddings, self.fusion, self.weights, normalize)


def _mean(values: list[Tensor], shares: list[float]) -> Tensor:
    if all(torch.equal(value, values[0]) for value in values):
        return values[0].detach().clone()
    terms = [value.detach().double() * share for value, share in zip(values, shares, strict=True)]
    return torch.stack(terms).sum(0).to(values[0].dtype)


def fuse_opened(
    stages: Sequence[Stage],
    fusion: str = "concat",
    weights: Sequence[float] | None = None,
    card: dict[str, Any] | None = None,
    collapsed: bool = False,
) -> FusedImages:
    """The fused model of stages: a `FusedCLIP`, or `FusedImages` where they are of images alone."""
    if stages and is_image_model(stages[0].config):
        return FusedImages(stages, fusion, weights, card)
    return FusedCLIP(stages, fusion, weights, card, collapsed=collapsed)
