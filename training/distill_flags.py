"""Flags of students: their help, and their defaults, which are what docs/study/README.md found best."""

from collections.abc import Callable, Mapping
from typing import Any

from mcl_clip.errors import UserError

ORDINARY, CONTRASTIVE = 0.5, 0.0
OF_A_STUDENT = ("distill_student", "distill_epochs", "distill_lr")
"""Of --mcl-distill alone: where the student is the run's own model, its flags are --model, --epochs and --lr."""


def add_distill_flags(add: Callable) -> None:
    """Their help."""
    add(
        "--mcl-distill", action="store_true",
        help="at the end train a student of the fused model, of one stage's size, into LOGS/NAME/student; "
        "--distill-model MODEL [--distill-pretrained TAG] makes --model itself the student of any model",
    )  # fmt: skip
    add(
        "--mcl-distill-student",
        metavar="MODEL",
        help="--model of the student (default: the last stage, with its weights)",
    )
    add("--mcl-distill-epochs", type=int, help="of the student (default: those of the last stage)")
    add("--mcl-distill-lr", type=float, help="of the student (default: that of the last stage)")
    add(
        "--mcl-distill-ordinary", type=float, metavar="SHARE",
        help="share of a student's global batches that are of all pseudo-labels; the others are the last stage's, of "
        f"one (default {ORDINARY:g}, 1 where there are no buckets)",
    )  # fmt: skip
    add(
        "--mcl-distill-contrastive", type=float, metavar="WEIGHT",
        help="weight of a student's own contrastive loss beside the teacher's similarities; 1 is open_clip's sum "
        f"(default {CONTRASTIVE:g})",
    )  # fmt: skip
    add(
        "--mcl-distill-buckets", metavar="DIR",
        help="with --distill-model: buckets of --train-data for batches of one pseudo-label (RUN/stage_1/buckets, say)",
    )  # fmt: skip


def resolved_distill(values: Mapping[str, Any], spelling: Callable[[str], str]) -> dict[str, Any]:
    """The settings of a student, their defaults filled in; `UserError` for those that it cannot have."""
    teaches, is_student = values["distill"], values["distill_model"] is not None
    if teaches and is_student:
        raise UserError("--distill-model: with --mcl-distill the teacher is the run's fused model; leave one out")
    if teaches and not values["stages"]:
        raise UserError("--mcl-distill needs stages to fuse: --mcl-stages 1 or more")
    if is_student and values["stages"]:
        raise UserError(
            "--distill-model trains one model, the student: leave --mcl-stages out (--mcl-distill trains a student of "
            "the stages)"
        )
    for name, value in values.items():
        if name in OF_A_STUDENT and value is not None and not teaches:
            raise UserError(f"{spelling(name)} needs --mcl-distill")
    for name in ("distill_pretrained", "distill_buckets"):
        if values[name] is not None and not is_student:
            raise UserError(f"{spelling(name)} needs --distill-model")
    found = {name: values[name] for name in ("distill_ordinary", "distill_contrastive")}
    for name, value in found.items():
        if value is not None and not (teaches or is_student):
            raise UserError(f"{spelling(name)} needs --mcl-distill or --distill-model")
    if not (teaches or is_student):
        return found
    has_buckets = teaches or values["distill_buckets"] is not None
    if found["distill_ordinary"] is None:
        found["distill_ordinary"] = ORDINARY if has_buckets else 1.0
    if found["distill_contrastive"] is None:
        found["distill_contrastive"] = CONTRASTIVE
    _check(found, values, has_buckets, spelling)
    return found


def _check(found: Mapping[str, Any], values: Mapping[str, Any], has_buckets: bool, spelling: Callable) -> None:
    ordinary, weight = found["distill_ordinary"], found["distill_contrastive"]
    if not 0 <= ordinary <= 1:
        raise UserError(f"{spelling('distill_ordinary')} is a share from 0 to 1, got {ordinary}")
    if ordinary < 1 and values["distill_model"] is not None and not has_buckets:
        raise UserError(f"{spelling('distill_ordinary')} {ordinary:g} needs --mcl-distill-buckets")
    if not 0 <= weight < float("inf"):
        raise UserError(f"{spelling('distill_contrastive')} is not below 0, got {weight}")
    if weight and values["objective"] == "moco":
        raise UserError(
            f"{spelling('distill_contrastive')} {weight:g}: MoCo's loss has a queue, which a student does not keep; "
            "leave it out, or train with --mcl-objective simclr"
        )
