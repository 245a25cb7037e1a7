"""All stages' image towers as one: images to the fused embedding, common first blocks run once."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mcl_clip.errors import UserError
from mcl_clip.fusion.combine import check_fusion, fuse_embeddings
from mcl_clip.fusion.shared_blocks import SharedTowers, share_tensors
from mcl_clip.fusion.stages import Stage, check_stages
from mcl_clip.fusion.tower_steps import Step, image_steps, reads


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


class FusedImages(nn.Module):
    """The image towers of every stage, in the given order; a call gives the fused embedding of images, as it is.

    Images are preprocessed for the first stage, [B, 3, H, W]. The embedding has the sum of the stages' sizes. Blocks
    that are equal across stages run once and are one tensor in memory: the stages' modules are taken over, not copied.
    Built in evaluation mode, for inference. Raises `UserError` when the stages do not read one kind of image, or the
    weights do not fit.
    """

    collapsed = False

    def __init__(
        self,
        stages: Sequence[Stage],
        fusion: str = "concat",
        weights: Sequence[float] | None = None,
        card: dict[str, Any] | None = None,
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
        for number, stage in enumerate(stages[1:], start=1):
            warn_of_moved_statistics(number, stage.model.visual, models[0].visual)
        split = len(stages) > 1
        renormalise = _renormalisers(stages)
        self._renormalise = nn.ModuleList(module for module in renormalise if module is not None)
        towers = zip(stages, renormalise, strict=True)
        self._image_towers = SharedTowers([_image_steps(stage, module, split) for stage, module in towers])
        self.dims = [int(config["embed_dim"]) for config in (stage.config["model_cfg"] for stage in stages)]
        self.visual = FusedVisual(stages[0], self._image_towers, self.fuse_images, sum(self.dims))
        self.eval()

    @property
    def num_stages(self) -> int:
        """How many stages are fused."""
        return len(self.stages)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer that all stages share, if they read texts."""
        return self.stage_info[0].tokenizer

    @property
    def preprocess(self) -> Any:
        """The evaluation transform of the first stage, which all stages share."""
        return self.stage_info[0].preprocess

    @property
    def sharing(self) -> dict[str, dict[str, int]]:
        """Steps (blocks, stems, heads) that run for an input, and that the separate towers would run."""
        return {"image": {"steps": self._image_towers.steps, "separate": self._image_towers.separate_steps}}

    def stage_embeddings(self, image: Tensor | None = None, text: Tensor | None = None) -> list[Tensor]:
        """Raw embeddings [B, D_s] of every stage in one pass."""
        if image is None or text is not None:
            raise ValueError("these stages embed images alone")
        return self._image_towers(image)

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """Fused embedding of images."""
        return self.fuse_images(self._image_towers(image), normalize)

    def forward(self, image: Tensor) -> Any:
        return self.encode_image(image)

    def subset(self, indices: Sequence[int]) -> "FusedImages":
        """The fused model of some stages, in the given order; modules are shared with this one."""
        stages, weights = self._chosen(indices)
        return FusedImages(stages, self.fusion, weights, self.card)

    def fuse_images(self, embeddings: list[Tensor], normalize: bool = False) -> Tensor:
        """The image embedding from what `stage_embeddings` gave."""
        return fuse_embeddings(embeddings, self.fusion, self.weights, normalize)

    def _chosen(self, indices: Sequence[int]) -> tuple[list[Stage], list[float] | None]:
        if not indices or len(set(indices)) != len(indices) or not set(indices) <= set(range(self.num_stages)):
            raise UserError(f"stages {list(indices)} are not distinct numbers from 0 to {self.num_stages - 1}")
        weights = self.weights and [self.weights[index] for index in indices]
        return [self.stage_info[index] for index in indices], weights


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


class _Renormalise(nn.Module):
    """Images that are normalised for one stage, as another one reads them."""

    factor: Tensor
    offset: Tensor

    def __init__(self, factor: list[float], offset: list[float], like: dict[str, Any]):
        super().__init__()
        # Not of what is saved: they follow from the stages' configurations.
        self.register_buffer("factor", torch.tensor(factor, **like)[:, None, None], persistent=False)
        self.register_buffer("offset", torch.tensor(offset, **like)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return images * self.factor.to(images.dtype) + self.offset.to(images.dtype)


def _renormalisers(stages: Sequence[Stage]) -> list[_Renormalise | None]:
    """By stage what comes before its tower, None for what is normalised as for the first; of equal ones one object, so
    that the towers behind it are compared."""
    keys = [(tuple(stage.preprocess_cfg["mean"]), tuple(stage.preprocess_cfg["std"])) for stage in stages]
    found: dict[Any, _Renormalise | None] = {}
    for stage, key in zip(stages, keys, strict=True):
        if key not in found:
            found[key] = renormaliser(stages[0].preprocess_cfg, stage.preprocess_cfg, *reads(stage.model.visual))
    return [found[key] for key in keys]


def renormaliser(
    given: Mapping[str, Any], wanted: Mapping[str, Any], device: torch.device, dtype: torch.dtype
) -> _Renormalise | None:
    """What makes images that are normalised as `given` says into `wanted`; None where that is the same."""
    (mean, std), (own_mean, own_std) = ([tuple(each[name]) for name in ("mean", "std")] for each in (given, wanted))
    if (mean, std) == (own_mean, own_std):
        return None
    factor = [other / own for own, other in zip(own_std, std, strict=True)]
    offset = [(other - own) / a for own, a, other in zip(own_mean, own_std, mean, strict=True)]
    return _Renormalise(factor, offset, {"device": device, "dtype": dtype})


def _image_steps(stage: Stage, renormalise: _Renormalise | None, split: bool) -> list[Step]:
    steps = image_steps(stage.model, split)
    return [Step(renormalise, (renormalise,)), *steps] if renormalise is not None else steps
