"""A model of images alone: a timm backbone and a projection head, with open_clip's interface for images."""

from collections.abc import Mapping
from typing import Any

import timm
import torch.nn.functional as F
from torch import Tensor, nn

from mcl_clip.errors import UserError
from mcl_clip.models.projection import Projection
from mcl_clip.openclip.towers import TimmModel

OUTPUTS = ("features", "projection")


class ImageTower(TimmModel):
    """open_clip's timm tower with the backbone's own pooling and no classifier: images to its features."""

    trunk: Any

    def __init__(self, name: str, args: Mapping[str, Any], preprocess_cfg: Mapping[str, Any]) -> None:
        nn.Module.__init__(self)
        self.trunk = timm.create_model(name, num_classes=0, **args)
        self.head = nn.Sequential()
        self.preprocess_cfg = dict(preprocess_cfg)
        size = self.preprocess_cfg["size"]
        self.image_size = (size, size) if isinstance(size, int) else tuple(size)
        self.feature_dim = int(getattr(self.trunk, "head_hidden_size", None) or self.trunk.num_features)


class ImageModel(nn.Module):
    """Images [B, 3, H, W] to embeddings [B, D]: backbone features, or with output "projection" those after the head.

    model_cfg: timm_model, timm_args, projection {kind, dim}, and output; preprocess_cfg: open_clip's. Built with random
    weights, or timm's with `pretrained`; raises `UserError` for a model that timm cannot build.
    """

    logit_bias = None

    def __init__(
        self, model_cfg: Mapping[str, Any], preprocess_cfg: Mapping[str, Any], pretrained: bool = False
    ) -> None:
        super().__init__()
        _check(model_cfg)
        try:
            args = {**model_cfg["timm_args"], "pretrained": pretrained}
            self.visual = ImageTower(model_cfg["timm_model"], args, preprocess_cfg)
        except (RuntimeError, ValueError, KeyError, TypeError, AssertionError, OSError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"timm cannot build {model_cfg['timm_model']} ({reason[:200]})") from None
        self.projection = Projection(width=self.visual.feature_dim, **model_cfg["projection"])
        self.output = model_cfg.get("output", "features")
        assert self.output in OUTPUTS

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """Embeddings, as `output` says."""
        embeddings = self.project(image) if self.output == "projection" else self.visual(image)
        return F.normalize(embeddings, dim=-1) if normalize else embeddings

    def project(self, image: Tensor) -> Tensor:
        """What the head makes of the features, [B, dim]."""
        return self.projection(self.visual(image))

    def forward(self, image: Tensor) -> Tensor:
        return self.encode_image(image)

    def lock_image_tower(self, unlocked_groups: int = 0, freeze_bn_stats: bool = False) -> None:
        """As open_clip's; the head stays unlocked."""
        self.visual.lock(unlocked_groups=unlocked_groups, freeze_bn_stats=freeze_bn_stats)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """As open_clip's."""
        self.visual.set_grad_checkpointing(enable)


def _check(model_cfg: Mapping[str, Any]) -> None:
    """A configuration may come from anywhere: it names a model that timm has, and no other source or file."""
    name, args = model_cfg["timm_model"], model_cfg["timm_args"]
    if not timm.is_model(str(name).partition(".")[0]):
        raise UserError(f"timm has no model {name}")
    if other := sorted(set(args) - {"img_size"}):
        raise UserError(f"timm_args of a stage are img_size alone, not {other[0]}")


def is_image_model(config: Mapping[str, Any]) -> bool:
    """Whether the configuration of a stage is one of images alone."""
    return "timm_model" in config["model_cfg"]


def with_output(config: Mapping[str, Any], output: str) -> dict[str, Any]:
    """The configuration of a stage whose embedding is "features" or "projection"."""
    model_cfg = config["model_cfg"]
    size = model_cfg["projection" if output == "projection" else "features"]["dim"]
    return {**config, "model_cfg": {**model_cfg, "output": output, "embed_dim": size}}
