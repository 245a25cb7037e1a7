"""The command line: our flags are taken out first, the rest goes to open_clip's own parser."""

import argparse
import contextlib
import difflib
import io
import re
from collections.abc import Iterable, Sequence

from mcl_clip.errors import UserError
from mcl_clip.help_text import with_examples
from mcl_clip.openclip.flags import parse_args as parse_open_clip
from training.distill_flags import add_distill_flags
from training.image_flags import add_image_flags
from training.open_clip_flags import HONOURED, REFUSED_VALUES, add_flags_of_open_clip_4, why_refused


def parser() -> argparse.ArgumentParser:
    """The flags that open_clip does not have."""
    ours = argparse.ArgumentParser(
        prog="mcl-train",
        usage="mcl-train [flags below] [open_clip's flags] (or: torchrun --nproc_per_node N -m training.main -- ...)",
        description=with_examples(
            (
                "mcl-train --train-data runs/demo-data/train --model mcl-tiny-conv --epochs 1 --batch-size 64 "
                "--train-num-samples 128 --mcl-stages 1 --mcl-clusters 4 --workers 0 --logs runs --name small",
                "mcl-train --train-data runs/demo-data/train --model mcl-tiny-conv --epochs 1 --batch-size 64 "
                "--train-num-samples 128 --mcl-stages 2 --mcl-clusters 4 --workers 0 --logs runs --name small-longer",
            ),
            "Train all stages of multistage contrastive learning in one job, and fuse them.",
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
        choices=["image", "text", "image-text", "projection"],
        default="image",
        help="embeddings to cluster (default image; projection: of images alone, behind the head)",
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
    add(
        "--mcl-resize", type=int, default=None, metavar="SIDE",
        help="encode the pictures of buckets anew, once, with a shorter side of so many pixels (256, say); smaller "
        "ones are copied (default: all are)",
    )  # fmt: skip
    add("--mcl-resize-quality", type=int, default=90, help="of JPEG and WebP that are resized, 1 to 100 (default 90)")
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
        "--mcl-ordinary", type=float, default=0.0, metavar="SHARE",
        help="share of a further stage's bucket shards, others in every epoch, whose samples have negatives from all "
        "pseudo-labels; 0.5 helped on real drawings; not with moco (default 0)",
    )  # fmt: skip
    add(
        "--mcl-lanes", type=int, default=None,
        help="ranges of a bucket that are read side by side (default: one for 256 samples of the global batch)",
    )  # fmt: skip
    add(
        "--mcl-window", type=int, default=None,
        help="samples of a bucket that are shuffled together (default: 8192)",
    )  # fmt: skip
    add(
        "--mcl-caption-key",
        "--json-text-key",
        default=None,
        help="field of the .json member that holds the caption, or a list of which one is drawn an epoch; of several, "
        "'a;b', the first that is not empty (default: the .txt member)",
    )
    add(
        "--mcl-caption-probs", "--json-text-key-probs", type=float, nargs="+", default=None,
        help="draw among the fields of --mcl-caption-key by these weights; those without one only stand in",
    )  # fmt: skip
    add(
        "--mcl-skip-broken", action="store_true",
        help="leave broken tars out, counted and listed, instead of refusing the data",
    )  # fmt: skip
    add(
        "--mcl-max-faults", type=float, default=0.001,
        help="share of the samples that may turn out unreadable in training before a run ends; 100 a rank may always "
        "(default 0.001)",
    )  # fmt: skip
    add(
        "--mcl-no-text-cache", action="store_true",
        help="with --lock-text, run the text tower in every step instead of keeping every caption's vector on disk",
    )  # fmt: skip
    add(
        "--mcl-channels-last", action="store_true",
        help="images and convolutions channel by channel within a pixel, which tensor cores read faster",
    )  # fmt: skip
    add("--mcl-mask-identical", action="store_true", help="no negatives between samples whose captions are the same")
    add(
        "--mcl-fusion",
        choices=["concat", "mean-cosine", "fitted"],
        default="concat",
        help="how stages are fused (default concat, as published); fitted: by one weight a stage, fitted on pairs that "
        "no stage is trained on: those of --mcl-fit-share, else --val-data",
    )
    add(
        "--mcl-fit-share", type=float, default=None,
        help="set this share of --train-data apart from all training, to fit the fusion on: whole groups, chosen by "
        "--seed (0.02, say; default: none)",
    )  # fmt: skip
    add(
        "--mcl-fit-group", default=None,
        help="the groups are the samples of one value under this field of the .json (default: of one caption, the "
        "first where there are several)",
    )  # fmt: skip
    add("--mcl-save-steps", type=int, default=0, help="also checkpoint every so many steps (default 0: off)")
    add("--mcl-save-minutes", type=float, default=0.0, help="also checkpoint every so many minutes (default 0: off)")
    add("--mcl-keep-checkpoints", type=int, default=2, help="checkpoints kept of the stage in training (default 2)")
    add_distill_flags(ours.add_argument_group("a student of the fused model").add_argument)
    add_image_flags(ours.add_argument_group("training on images alone").add_argument)
    add_flags_of_open_clip_4(ours.add_argument_group("flags of open_clip 4, with any open_clip").add_argument)
    return ours


def flag(name: str) -> str:
    """`lock_image` -> `--lock-image`."""
    return "--" + name.replace("_", "-")


def flag_names() -> set[str]:
    """Names of all flags that are honoured, ours and open_clip's."""
    return {action.dest for action in parser()._actions} | HONOURED


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
        refused = sorted(name for name in vars(parse_open_clip([])) if why_refused(name))
        print("\nopen_clip's flags; refused here: " + ", ".join(map(flag, refused)))
        print(_open_clip_help())
        raise SystemExit(0)
    try:
        with contextlib.redirect_stderr(io.StringIO()) as complaint:
            ours, rest = parser().parse_known_args(arguments)
            _refuse_spelt_out(rest)
            theirs = parse_open_clip(rest)
            plain = parse_open_clip(["--model", theirs.model])
    except SystemExit:
        raise UserError(_complaint(complaint.getvalue())) from None
    except UserError:
        raise
    except (ValueError, SyntaxError):  # open_clip's own reading of --aug-cfg
        raise UserError("--aug-cfg takes KEY=VALUE, for example --aug-cfg scale=[0.4,1.0]") from None
    for name, value in vars(theirs).items():
        if name not in HONOURED and value != getattr(plain, name):  # an abbreviation
            raise UserError(_refusal(name))
    for name, (values, reason) in REFUSED_VALUES.items():
        if (value := getattr(theirs, name, None)) not in values | {None}:
            raise UserError(f"{flag(name)} {value} is not supported: {reason}")
    return argparse.Namespace(**{name: vars(theirs).get(name) for name in HONOURED}, **vars(ours))


def _refuse_spelt_out(tokens: Sequence[str]) -> None:
    """Refuse flags of any open_clip, also those that the one in use does not know, and defaults that are spelt out."""
    known = vars(parse_open_clip([]))
    for token in tokens:
        name = token.split("=", 1)[0].removeprefix("--").replace("-", "_")
        if token.startswith("--") and name not in HONOURED and (name in known or why_refused(name)):
            raise UserError(_refusal(name))


def _refusal(name: str) -> str:
    return f"{flag(name)} is not supported: {why_refused(name) or 'mcl_clip would not heed it'}"


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
