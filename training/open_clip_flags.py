"""open_clip's flags: those that mean here what they mean there, and why others are refused."""

import argparse
import ast
from collections.abc import Callable
from typing import Any

HONOURED = frozenset(
    {
        "accum_freq", "aug_cfg", "batch_size", "beta1", "beta2", "cache_dir", "csv_caption_key",
        "csv_img_key", "csv_separator", "dataset_type", "ddp_static_graph",
        "debug", "delete_previous_checkpoint", "device", "dist_backend", "dist_url", "distill_model",
        "distill_pretrained", "epochs", "epochs_cooldown",
        "eps", "force_context_length", "force_custom_text", "force_image_size", "force_patch_dropout",
        "force_quick_gelu", "gather_with_grad", "grad_checkpointing", "grad_clip_norm", "image_interpolation",
        "image_mean", "image_resize_mode", "image_std", "imagenet_val", "local_loss", "lock_image",
        "lock_image_freeze_bn_stats", "lock_image_unlocked_groups", "lock_text", "lock_text_freeze_layer_norm",
        "lock_text_unlocked_layers", "log_every_n_steps", "log_local", "logs", "lr", "lr_cooldown_end",
        "lr_cooldown_power", "lr_scheduler", "model", "momentum", "name", "no_set_device_rank", "opt", "precision",
        "pretrained", "pretrained_image", "report_to", "resume", "save_frequency", "save_most_recent", "seed",
        "siglip", "skip_scheduler", "torchcompile", "train_data", "train_data_upsampling_factors", "train_num_samples",
        "use_bn_sync", "val_data", "val_frequency", "val_num_samples", "wandb_notes", "wandb_project_name", "warmup",
        "wd", "workers", "zeroshot_frequency",
    }
)  # fmt: skip
"""Names of the flags that go to open_clip's own parser."""

REFUSED_VALUES: dict[str, tuple[set[str | None], str]] = {
    "dataset_type": ({"auto", "webdataset", "csv", "synthetic"}, "mcl_clip trains image-text pairs"),
    "resume": (
        {None, "latest"},
        "a run resumes from its own directory; to start from other weights use --pretrained PATH",
    ),
    "lr_scheduler": ({"cosine", "const", "const-cooldown"}, "choose cosine, const or const-cooldown"),
}
"""Of honoured flags: the values that are honoured, and why others are not."""

_ONCE = "an epoch is every sample once, or as often as --train-data-upsampling-factors says"
_IMAGES = "images are .jpg, .jpeg, .png or .webp members"
_CAPTIONS = "captions come from the .txt member of a tar, or from --mcl-caption-key of its .json"
_PAIRS = "mcl_clip trains image-text pairs with a contrastive loss only"
_FIXED = "batches are of one size, as the plan says"
_RETRIEVAL = "retrieval is scored exactly, in blocks that fit"
_REASONS = {
    "dataset_resampled": f"{_ONCE}; sampling with replacement would put false negatives into a batch",
    "image_key": _IMAGES,
    "max_image_pixels": f"{_ONCE}; filter the tars before training",
    "text_key": _CAPTIONS,
    "imagenet_v2": "score a finished run with mcl-zero-shot instead",
    "torchscript": "a scripted model cannot be written as a stage directory; use --torchcompile for speed",
    "trace": "a traced model cannot be trained",
    "torchcompile_strategy": "the model is compiled, without the loss, whose segments change from batch to batch",
    "copy_codebase": "recipe.yaml records every flag and the versions of the packages",
    "horovod": "ranks are torchrun's or SLURM's",
    "remote_sync": "every rank reads the run directory while it runs; copy it when the run has ended",
    "remote_sync_frequency": "see --remote-sync",
    "remote_sync_protocol": "see --remote-sync",
    "use_bnb_linear": "the stage's model could not be loaded by plain open_clip",
    "loss_dist_impl": "the sigmoid loss has one implementation here, which computes only the blocks that count",
    "opt_fallback_list": "it is of hybrid optimizers, none of which was tried; choose adamw or another timm/NAME",
    "text_pooler_own_group": "a text tower's pooler is always of its head's layer",
    "use_naflex": f"{_FIXED}; a tower of another patching has its own --model name",
    "force_naflex_vision": f"{_FIXED}; a tower of another patching has its own --model name",
    "text_pad_multiple": "texts are as long as the model's context",
    "log_metric_every_n_steps": "metrics.jsonl and the trackers get what the log gets, every --log-every-n-steps",
    "train_loss_ema_samples": "the log shows the mean since the line before",
    "audio_zeroshot_template": _PAIRS,
}
_FAMILIES = {
    "audio": _PAIRS,
    "pretrained_audio": _PAIRS,
    "coca": _PAIRS,
    "fsdp": "the loss gathers features over the ranks of DDP, whose towers are whole on every rank",
    "naflex": _FIXED,
    "length_bucketing": _FIXED,
    "bucket": f"{_FIXED}; buckets are those of pseudo-labels here",
    "val_retrieval": _RETRIEVAL,
}
"""Reasons by how a name begins."""


def why_refused(name: str) -> str | None:
    """Why a flag has no effect here; None for one that is honoured, or that no open_clip known to us has."""
    if name in HONOURED:
        return None
    if name in _REASONS:
        return _REASONS[name]
    return next((why for start, why in _FAMILIES.items() if f"{name}_".startswith(f"{start}_")), None)


def add_flags_of_open_clip_4(add: Callable) -> None:
    """Flags that only open_clip 4 has, of any open_clip."""
    add("--opt-kwargs", nargs="*", type=_key_value, metavar="KEY=VALUE", help="more arguments of the optimizer")
    add(
        "--wd-exclude", nargs="*", metavar="PATTERN",
        help="parameters that shall not decay, as globs over their names, besides gains, biases and the logit scale",
    )  # fmt: skip
    for tower, names in (("image", ["--image-layer-decay", "--visual-layer-decay"]), ("text", ["--text-layer-decay"])):
        add(
            *names, type=float, metavar="FACTOR",
            help=f"learning rate of the {tower} tower's layers: --lr x FACTOR ** (layers between it and the head)",
        )  # fmt: skip
    add("--torchcompile-mode", metavar="MODE", help="of torch.compile: default, reduce-overhead, max-autotune")
    add("--torchcompile-backend", metavar="BACKEND", help="of torch.compile: inductor, eager, ...")


def _key_value(text: str) -> tuple[str, Any]:
    """`foreach=False` -> ("foreach", False), as open_clip reads it: a Python literal, else a string."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text} is not KEY=VALUE")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value
