"""CLIP_benchmark's own command with one more model type, `mcl_clip`: python -m eval.clip_benchmark eval ...

Its `--model` takes what `mcl_clip.load` takes. Rows of result files keep CLIP_benchmark's format.
"""

import sys
from collections.abc import Sequence
from typing import Any

from torch import Tensor

import mcl_clip
from mcl_clip.errors import UserError, exit_on_user_error

MODEL_TYPE = "mcl_clip"


def load_for_benchmark(model_name: str, pretrained: str, cache_dir: str | None = None, device: Any = "cpu"):
    """What CLIP_benchmark calls: (model, preprocess, tokenizer)."""
    return mcl_clip.load(model_name, device=device, pretrained=pretrained or None)


def accuracy(output: Tensor, target: Tensor, topk: Sequence[int] = (1,)) -> list[float]:
    """Shares of samples whose class [N] is among the k highest of the logits [N, C], for every k."""
    ranked = output.topk(max(topk), dim=1).indices == target[:, None]
    return [ranked[:, :k].any(1).double().mean().item() for k in topk]


@exit_on_user_error
def main(arguments: list[str] | None = None) -> int:
    """Register the model type, then run CLIP_benchmark's `main` with it."""
    try:
        from clip_benchmark import cli, models
        from clip_benchmark.metrics import linear_probe, zeroshot_classification
    except ImportError as error:
        raise UserError(f"CLIP_benchmark is not installed ({error}); pip install clip_benchmark") from None
    models.TYPE2FUNC[MODEL_TYPE] = load_for_benchmark
    # CLIP_benchmark 1.6.2 makes a float of an array with one element, which numpy refuses from 2.4 on.
    zeroshot_classification.accuracy = linear_probe.accuracy = accuracy
    if MODEL_TYPE not in models.MODEL_TYPES:
        models.MODEL_TYPES.append(MODEL_TYPE)
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["eval"] and not any(argument.startswith("--model_type") for argument in arguments):
        arguments += ["--model_type", MODEL_TYPE]
    before, sys.argv = sys.argv, ["clip_benchmark", *arguments]
    try:
        return cli.main() or 0
    finally:
        sys.argv = before


if __name__ == "__main__":
    raise SystemExit(main())
