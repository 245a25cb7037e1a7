"""A stage's model as a pure function from samples to unit features."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import normalize
from torch.nn.modules.batchnorm import _BatchNorm

from mcl_clip.errors import UserError
from mcl_clip.loading.augment import eval_transform
from mcl_clip.loading.normalize import Normalize
from mcl_clip.models.stage_model import load_stage_model

TOWERS = {"image": ("image",), "text": ("text",), "image-text": ("image", "text"), "projection": ("projection",)}
"""By --mcl-cluster-on: what is embedded; a projection is what the head makes of an image (see `ImageModel`)."""
AUTOCAST = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def default_precision(device: str | torch.device) -> str:
    """In what embeddings are made to be clustered: bf16 on CUDA devices that multiply in it, else fp32."""
    on_cuda = torch.device(device).type == "cuda" and torch.cuda.is_available()
    return "bf16" if on_cuda and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


@dataclass(frozen=True)
class Encoder:
    """A model and how its inputs are made.

    `model` has open_clip's encode_image and encode_text, with fp32 weights; with `precision` bf16 or fp16
    they run under autocast, and features are normalised in fp32. `transform` turns an image's bytes into
    (uint8 tensor [3, H, W], _), in worker processes, and raises `DecodeError` on a broken image; `prepare`
    turns a batch of these into the model's input, on the device; `tokenize` turns captions into ids.
    """

    model: Any
    transform: Callable[[bytes], tuple[torch.Tensor, Any]]
    prepare: Callable[[torch.Tensor], torch.Tensor]
    tokenize: Callable[[list[str]], torch.Tensor] | None
    towers: tuple[str, ...] = ("image",)
    precision: str = "fp32"

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def encode(self, images: torch.Tensor | None, texts: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """Unit features [n, D] fp32 by tower, on the device: the host need not wait for them."""
        dtype, kind = AUTOCAST[self.precision], self.device.type
        features = {}
        with torch.inference_mode(), _repeatable(), torch.autocast(kind, dtype, dtype != torch.float32):
            if images is not None:
                pixels = self.prepare(images.to(self.device, non_blocking=True))
                for tower in self.towers:
                    if tower in ("image", "projection"):
                        embed = self.model.encode_image if tower == "image" else self.model.project
                        features[tower] = normalize(embed(pixels).float(), dim=-1)
            if texts is not None:
                ids = texts.to(self.device, non_blocking=True)
                features["text"] = normalize(self.model.encode_text(ids).float(), dim=-1)
        return features


def load_encoder(directory: str | Path, towers: tuple[str, ...], precision: str, device: str) -> Encoder:
    """The encoder of a stage directory; `UserError` when it is not a whole model."""
    model: Any
    model, _, tokenizer = load_stage_model(directory, device)
    absent = "text" if tokenizer is None else "projection"
    if absent in towers:
        raise UserError(f"--mcl-cluster-on: {directory} has no {absent} embedding; cluster on image")
    transform = eval_transform(model.visual.preprocess_cfg)
    prepare = Normalize(transform.mean, transform.std).to(device)
    return Encoder(model, transform, prepare, tokenizer, towers, precision)


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, every module's own mode after; `UserError` when the model is not a pure
    function.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise UserError(
                f"{name} is a BatchNorm without running statistics: a sample's feature would depend on "
                f"its batch; "
                "train it with track_running_stats=True"
            )
    modes = [(module, module.training) for module in model.modules()]
    buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    model.eval()
    try:
        yield
        moved = [name for name, buffer in model.named_buffers() if not _same(buffer, buffers[name])]
        if moved:
            raise UserError(
                f"buffer {moved[0]} of the model moves in evaluation mode: features would depend on the "
                f"order of the "
                "samples; fix the module that writes it"
            )
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def _repeatable() -> Iterator[None]:
    """The same kernels in every process, whatever the surrounding training has chosen; fp32 is not TF32, for who wants
    speed has bf16."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        matmul.allow_tf32 = before


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
