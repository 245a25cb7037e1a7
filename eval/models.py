"""The model of a scoring command: how it is named, loaded and recorded."""

import argparse
import contextlib
import hashlib
import platform
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from open_clip import get_input_dtype
from open_clip_train.precision import get_autocast
from torch import Tensor, nn

import mcl_clip
from mcl_clip.errors import UserError

PACKAGES = ("mcl_clip", "open_clip_torch", "torch", "transformers", "datasets")


@dataclass(frozen=True)
class ScoredModel:
    """A model in evaluation mode with what belongs to it; `record` goes into every result."""

    model: nn.Module
    preprocess: Any
    tokenizer: Any
    name: str
    pretrained: str = ""
    precision: str = "fp32"

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def to_device(self, pixels: Tensor) -> Tensor:
        """Images as the model takes them: on its device, and in its own dtype where that is a half one."""
        return pixels.to(self.device, get_input_dtype(self.precision))

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
            "packages": {name: version(name) for name in PACKAGES},
        }


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over the names, shapes, dtypes and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(array.shape)} {array.dtype} ".encode())
        digest.update(array.flatten().view(torch.uint8).numpy().tobytes() if array.numel() else b"")
    return digest.hexdigest()


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """--model, --pretrained, --fusion, --device, --precision, --batch-size."""
    parser.add_argument(
        "--model",
        required=True,
        help="a fused directory, a stage directory, an open_clip name (with --pretrained), or several of these by "
        "comma, fused on the fly",
    )
    parser.add_argument("--pretrained", help="weights of an open_clip name: a tag or a file")
    parser.add_argument("--fusion", default="concat", choices=("concat", "mean-cosine"), help="of several models")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "amp", "amp_bf16", "bf16", "fp16"))
    parser.add_argument("--batch-size", type=positive, default=64, help="images at once (default 64)")


def positive(text: str) -> int:
    """A whole number above zero, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def load_scored_model(args: argparse.Namespace) -> ScoredModel:
    """Load what the flags of `add_model_arguments` name; `UserError` when it cannot be had."""
    weights = args.precision if args.precision in ("bf16", "fp16") else "fp32"
    if str(args.device).startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device {args.device}: torch sees no GPU here; use --device cpu")
    try:
        model, preprocess, tokenizer = mcl_clip.load(
            args.model, device=args.device, precision=weights, pretrained=args.pretrained, fusion=args.fusion
        )
    except UserError as error:
        raise UserError(f"--model {args.model}: {error}") from None
    return ScoredModel(model, preprocess, tokenizer, args.model, args.pretrained or "", args.precision)
