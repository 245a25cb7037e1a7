"""The model that is scored: how images reach it, and how it is recorded."""

import contextlib
import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from eval.data.images import THREADS
from eval.transforms import OwnTransform, scoring_transform
from mcl_clip.errors import UserError
from mcl_clip.loading.augment import EvalTransform
from mcl_clip.loading.normalize import Normalize
from mcl_clip.openclip.precision import get_autocast, get_input_dtype
from mcl_clip.openclip.version import VERSION

PACKAGES = ("mcl_clip", "torch", "transformers", "datasets")


@dataclass(frozen=True)
class ScoredModel:
    """A model in evaluation mode with what belongs to it; `record` goes into every result.

    `precision` is open_clip's word for how it is run; by default the one that it was loaded with (see
    `precision_of`). `workers` threads read and decode its images.
    """

    model: nn.Module
    preprocess: Any
    tokenizer: Any
    name: str = ""
    pretrained: str = ""
    precision: str = ""
    workers: int = THREADS

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", self.precision or precision_of(self.model))

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @cached_property
    def _transform(self) -> EvalTransform | OwnTransform:
        return scoring_transform(self.model, self.preprocess)

    @cached_property
    def _normalize(self) -> Normalize:
        dtype = get_input_dtype(self.precision) or torch.float32
        return Normalize(self._transform.mean, self._transform.std, dtype).to(self.device)

    def decoded(self, data: bytes) -> Tensor:
        """[3, H, W] of an encoded image, for `to_device`; `DecodeError` when it is none (see `scoring_transform`)."""
        return self._transform(data)[0]

    def to_device(self, images: Tensor) -> Tensor:
        """Images as the model takes them: normalised, on its device, and in its own dtype where that is a half one."""
        return self._normalize(images.to(self.device))

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Texts as the model takes them, on its device; `UserError` when it takes none."""
        if self.tokenizer is None:
            raise UserError(f"{self.name or 'the model'} embeds images alone; use mcl-linear-probe or mcl-knn")
        return self.tokenizer(list(texts)).to(self.device)

    def autocast(self) -> contextlib.AbstractContextManager:
        """The autocast of `precision`, as open_clip's."""
        return get_autocast(self.precision, device_type=self.device.type)()

    def record(self) -> dict[str, Any]:
        """Precision, versions, weights' hash and QuickGELU."""
        return {
            "precision": self.precision,
            "device": self.device.type,
            "model_hash": weights_hash(self.model),
            "quick_gelu": any(type(module).__name__ == "QuickGELU" for module in self.model.modules()),
            "python": platform.python_version(),
            "packages": {name: version(name) for name in PACKAGES} | {"open_clip_torch": VERSION},
        }


def precision_of(model: nn.Module) -> str:
    """`model.precision`, which `mcl_clip.load` sets; of another model what its weights' half type asks for, or fp32."""
    kinds = {parameter.dtype for parameter in model.parameters()}
    half = {torch.bfloat16: "bf16", torch.float16: "fp16"}
    return getattr(model, "precision", None) or next((half[kind] for kind in half if kind in kinds), "fp32")


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over the names, shapes, dtypes and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(array.shape)} {array.dtype} ".encode())
        digest.update(array.flatten().view(torch.uint8).numpy().tobytes() if array.numel() else b"")
    return digest.hexdigest()
