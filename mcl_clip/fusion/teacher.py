"""A model whose similarities a student learns."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mcl_clip.artifacts import sha256_json
from mcl_clip.errors import UserError
from mcl_clip.fusion.files import read_fused_config
from mcl_clip.fusion.fused_images import renormaliser
from mcl_clip.fusion.load import fused_directory, load
from mcl_clip.fusion.stages import Stage, another_text
from mcl_clip.fusion.tower_steps import reads
from mcl_clip.models.image_model import is_image_model
from mcl_clip.models.stage_model import is_stage, model_hash


class Teacher:
    """Any model that `load` knows, in evaluation mode and without gradient, on a student's inputs.

    Images come as they are normalised for the student, tokens as the student's tokenizer gives them; the embedding may
    be of any size. Raises `UserError` for a model that cannot be had, that reads images of another size or texts by
    another tokenizer than the student, or none where it reads them.
    """

    def __init__(
        self, spec: str, pretrained: str | None, student: Stage, device: torch.device, precision: str = "fp32"
    ) -> None:
        model: Any
        model, _, tokenizer = load(spec, device, precision, pretrained)
        _check(spec, model, tokenizer, student)
        first = model.stages[0] if hasattr(model, "num_stages") else model
        wanted = model.visual.preprocess_cfg
        self._model = model.requires_grad_(False)
        self._renormalise = renormaliser(student.preprocess_cfg, wanted, *reads(first.visual))

    @torch.no_grad()
    def of_pairs(self, images: Tensor, texts: Tensor) -> dict[str, Tensor]:
        """What `MCLDistillLoss` takes of the teacher, for images [B, 3, H, W] and tokens [B, context]."""
        return {
            "dist_image_features": self._model.encode_image(self._seen(images), normalize=True),
            "dist_text_features": self._model.encode_text(texts, normalize=True),
            "dist_logit_scale": self._model.logit_scale.exp(),
        }

    @torch.no_grad()
    def of_views(self, views: Tensor, scale: float) -> dict[str, Tensor]:
        """The same for two views of images, [B, 2, 3, H, W], under a scale of the logits."""
        units = normalize(self._model.encode_image(self._seen(views.flatten(0, 1))), dim=-1)
        first, second = units.unflatten(0, views.shape[:2]).unbind(1)
        return {
            "dist_image_features": first,
            "dist_text_features": second,
            "dist_logit_scale": units.new_full((), scale, dtype=torch.float32),
        }

    def _seen(self, images: Tensor) -> Tensor:
        return images if self._renormalise is None else self._renormalise(images)


def teacher_hash(spec: str, pretrained: str | None) -> str:
    """What a teacher computes: of files a hash, of names in open_clip or on the hub these."""
    if (directory := fused_directory(spec)) is not None:
        config = read_fused_config(directory)
        return sha256_json([config[name] for name in ("sha256", "fusion", "weights", "collapsed")])
    for directory in (Path(spec), Path(spec) / "model"):
        if is_stage(directory):
            return model_hash(directory)
    return f"{spec} {pretrained or ''}".strip()


def _check(spec: str, teacher: Any, tokenizer: Any, student: Stage) -> None:
    who = f"--distill-model {spec}"
    reads_texts = hasattr(teacher, "encode_text")
    if reads_texts == is_image_model(student.config):
        other = "images and texts" if reads_texts else "images alone"
        raise UserError(f"{who} embeds {other}, the student does not: give a teacher of the student's --mcl-objective")
    theirs, ours = _size(teacher.visual.image_size), _size(student.model.visual.image_size)
    if theirs != ours:
        raise UserError(
            f"{who} reads images of {theirs[0]} x {theirs[1]} pixels, the student of {ours[0]} x {ours[1]}: give a "
            "student of that size (--force-image-size)"
        )
    if reads_texts and (difference := another_text(student.tokenizer, tokenizer)):
        raise UserError(f"{who} {difference} the student: give a student that shares its tokenizer and context length")


def _size(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
