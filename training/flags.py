"""The command line: our flags are taken out first, the rest goes to open_clip's own parser."""

import argparse
import contextlib
import difflib
import io
import re
from collections.abc import Iterable, Sequence

from mcl_clip.errors import UserError
from mcl_clip.openclip.flags import parse_args as parse_open_clip

_ONCE = "an epoch is every sample once"
_ONE_LOSS = "mcl_clip trains image-text pairs with a contrastive loss only"
REFUSED: dict[str, str] = {
    "train_data_upsampling_factors": f"{_ONCE}; repeat nothing, or write the shards twice under other names",
    "dataset_resampled": f"{_ONCE}; sampling with replacement would put false negatives into a batch",
    "imagenet_v2": "score a finished run with mcl-zero-shot instead",
    "torchscript": "a scripted model cannot be written as a stage directory; use --torchcompile for speed",
    "trace": "a traced model cannot be trained",
    "copy_codebase": "recipe.yaml records every flag and the versions of the packages",
    "horovod": "ranks are torchrun's or SLURM's",
    "coca_caption_loss_weight": _ONE_LOSS,
    "coca_contrastive_loss_weight": _ONE_LOSS,
    "remote_sync": "every rank reads the run directory while it runs; copy it when the run has ended",
    "remote_sync_frequency": "see --remote-sync",
    "remote_sync_protocol": "see --remote-sync",
    "distill_model": _ONE_LOSS,
    "distill_pretrained": _ONE_LOSS,
    "use_bnb_linear": "the stage's model could not be loaded by plain open_clip",
    "loss_dist_impl": "the sigmoid loss has one implementation here, which computes only the blocks that count",
}
"""Flags of open_clip that would be without effect here, and why; giving one is an error."""

_REFUSED_VALUES: dict[str, tuple[set[str | None], str]] = {
    "resume": (
        {None, "latest"},
        "a run resumes from its own directory; to start from other weights use --pretrained PATH",
    ),
    "lr_scheduler": ({"cosine", "const", "const-cooldown"}, "choose cosine, const or const-cooldown"),
}


def parser() -> argparse.ArgumentParser:
    """The flags that open_clip does not have."""
    ours = argparse.ArgumentParser(
        prog="mcl-train",
        usage="mcl-train [flags below] [open_clip's flags] (or: torchrun --nproc_per_node N -m training.main -- ...)",
        description="Train all stages of multistage contrastive learning in one job, and fuse them.",
        allow_abbrev=False,
        add_help=False,
    )
    add = ours.add_argument_group("multistage contrastive learning").add_argument
    add(
        "--config",
        help="YAML recipe: flags by name, and per-stage overrides under 'stages'; a run's recipe.yaml will do",
    )
    add("--mcl-stages", type=int, default=0, help="stages after stage 0; 0 is plain open_clip training (default 0)")
    add("--mcl-clusters", type=int, default=10, help="k-means clusters of each stage's embeddings (default 10)")
    add(
        "--mcl-base", choices=["auto", "train", "keep"], default="auto",
        help="train stage 0, or keep it as it is pretrained; auto keeps it when weights and stages are asked for",
    )  # fmt: skip
    add(
        "--mcl-init", choices=["base", "previous", "scratch"], default="previous",
        help="weights that stage 1, 2, ... start from: stage 0's, the stage before's, or new ones (default previous)",
    )  # fmt: skip
    add(
        "--mcl-cluster-on",
        choices=["image", "text", "image-text"],
        default="image",
        help="embeddings to cluster (default image)",
    )
    add(
        "--mcl-text-clusters",
        type=int,
        default=None,
        help="clusters of the text with image-text (default: --mcl-clusters)",
    )
    add("--mcl-reservoir", type=int, default=1_000_000, help="most samples that k-means is fitted on (default 1000000)")
    add("--mcl-keep-features", action="store_true", help="keep the clustered embeddings (fp16) beside the labels")
    add(
        "--mcl-index-only",
        action="store_true",
        help="write no bucket tars: index shards that point into the source tars",
    )
    add("--mcl-shard-size", type=int, default=1000, help="samples of a bucket shard (default 1000)")
    add(
        "--mcl-leftovers", choices=["pack", "drop"], default="pack",
        help="what a bucket leaves after its full batches: packed with other buckets', or left out (default pack)",
    )  # fmt: skip
    add(
        "--mcl-min-segment",
        type=int,
        default=None,
        help="samples below which a pseudo-label backs off to its parent (default 32)",
    )
    add(
        "--mcl-lanes", type=int, default=None,
        help="ranges of a bucket that are read side by side (default: one for 256 samples of the global batch)",
    )  # fmt: skip
    add(
        "--mcl-window", type=int, default=None,
        help="samples of a bucket that are shuffled together (default: 524288 over the pseudo-labels, at most 8192)",
    )  # fmt: skip
    add(
        "--mcl-caption-key",
        default=None,
        help="field of the .json member that holds the caption (default: the .txt member)",
    )
    add("--mcl-mask-identical", action="store_true", help="no negatives between samples whose captions are the same")
    add(
        "--mcl-fusion",
        choices=["concat", "mean-cosine"],
        default="concat",
        help="how stages are fused (default concat, as published)",
    )
    add("--mcl-save-steps", type=int, default=0, help="also checkpoint every so many steps (default 0: off)")
    add("--mcl-save-minutes", type=float, default=0.0, help="also checkpoint every so many minutes (default 0: off)")
    add("--mcl-keep-checkpoints", type=int, default=2, help="checkpoints kept of the stage in training (default 2)")
    return ours


def flag(name: str) -> str:
    """`lock_image` -> `--lock-image`."""
    return "--" + name.replace("_", "-")


def flag_names() -> set[str]:
    """Names of all flags, ours and open_clip's, supported or not."""
    return {action.dest for action in parser()._actions} | set(vars(parse_open_clip([])))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean --lock-image?`, or nothing when no known flag is spelt alike."""
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.75)
    return f"; did you mean {flag(near[0])}?" if near else ""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """One namespace of our flags and open_clip's, its defaults filled in from the model's name as open_clip does.

    Raises `UserError` for flags that are unknown, malformed or not supported. Prints the help of both parsers and
    exits for `--help`.
    """
    # torchrun of Python 3.11 takes --logs for an abbreviation of its own --logs-specs unless a "--" stands before.
    arguments = [argument for argument in arguments if argument != "--"]
    if {"-h", "--help"} & set(arguments):
        parser().print_help()
        print("\nopen_clip's flags; refused here: " + ", ".join(flag(name) for name in REFUSED))
        print(_open_clip_help())
        raise SystemExit(0)
    try:
        with contextlib.redirect_stderr(io.StringIO()) as complaint:
            ours, rest = parser().parse_known_args(arguments)
            theirs = parse_open_clip(rest)
            plain = parse_open_clip([])
    except SystemExit:
        raise UserError(_complaint(complaint.getvalue())) from None
    except (ValueError, SyntaxError):  # open_clip's own reading of --aug-cfg
        raise UserError("--aug-cfg takes KEY=VALUE, for example --aug-cfg scale=[0.4,1.0]") from None
    given = {token.split("=", 1)[0] for token in rest}
    for name, reason in REFUSED.items():
        # The value tells abbreviations; the token tells a default that was spelt out.
        if flag(name) in given or getattr(theirs, name) != getattr(plain, name):
            raise UserError(f"{flag(name)} is not supported: {reason}")
    for name, (values, reason) in _REFUSED_VALUES.items():
        value = getattr(theirs, name)
        if value not in values:
            raise UserError(f"{flag(name)} {value} is not supported: {reason}")
    return argparse.Namespace(**vars(theirs), **vars(ours))


def _complaint(text: str) -> str:
    """argparse's last line, with the flag that an unknown one may have meant."""
    last = re.sub(r"^.*?error: ", "", text.strip().splitlines()[-1])
    unknown = re.match(r"unrecognized arguments: (?:.*? )??--([\w-]+)", last)
    hint = did_you_mean(unknown[1].replace("-", "_"), flag_names()) if unknown else ""
    return f"{last}{hint} (see mcl-train --help)"


def _open_clip_help() -> str:
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        parse_open_clip(["--help"])
    options = text.getvalue()
    return options[options.find("option") :]
