"""Fused model -> student: a run of its own, in which one model learns what the stages know together."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcl_clip.artifacts import sha256_json
from mcl_clip.errors import UserError
from mcl_clip.fusion.teacher import teacher_hash
from mcl_clip.shards.manifest import Manifest
from training.arrows.job import Job
from training.recipe import Recipe
from training.recipe_file import arguments_of
from training.run_directory import RunDirectory

_GROUPS = ("optimization", "data", "objective", "saving", "reporting")
_OTHERWISE = {
    "train_data_upsampling_factors", "fit_share", "fit_group", "dataset_type", "csv_img_key", "csv_caption_key",
    "csv_separator", "shard_size", "index_only", "resize", "resize_quality", "init", "clusters", "labels",
    "ordinary", "diverging_ranks", "global_batch",
}  # fmt: skip
"""What the source and the buckets are already, and what is of stages."""


def data_of(job: Job, data: Manifest) -> Manifest:
    """What stage 0 is trained on: `data`, or the buckets of it whose batches a student mixes with ordinary ones."""
    settings = job.recipe.distill
    if not settings.mixes:
        return data
    assert settings.distill_buckets is not None
    buckets = Manifest.load(settings.distill_buckets)
    if buckets.made_from.get("source") != data.hash:
        raise UserError(
            f"--mcl-distill-buckets {settings.distill_buckets} were made from other data than --train-data: give the "
            "data of that run, or --mcl-distill-ordinary 1 and no buckets"
        )
    return buckets


def taught_by(recipe: Recipe) -> dict[str, str]:
    """What a student is made from besides its data and first weights."""
    settings = recipe.distill
    if settings.distill_model is None:
        return {}
    teaching = {"ordinary": settings.distill_ordinary, "contrastive": settings.distill_contrastive}
    return {
        "teacher": teacher_hash(settings.distill_model, settings.distill_pretrained),
        "teaching": sha256_json(teaching),
    }


def student_arguments(
    plain: Mapping[str, Any],
    run: RunDirectory,
    output: Path,
    train_data: str = "",
    student: str = "",
    teacher: Path | None = None,
    first: Path | None = None,
) -> list[str]:
    """The command line of a student of a run: what its recipe says of training, with the settings of its last stage.

    plain: recipe.yaml. Without `train_data` it is the run's own. The buckets are the last stage's, where they stand.
    student: a --model, which is trained whole, instead of the last stage. teacher: a fused model, by default the run's
    own; first: the stage that the student starts from, by default the run's last.
    """
    last = max(plain["stages"])
    distill, source, buckets = plain.get("distill") or {}, run.source / "manifest.json", run.buckets(last)
    told = {name: value for group in _GROUPS for name, value in plain.get(group, {}).items()}
    told |= {name: plain["model"].get(name) for name in ("siglip", "cache_dir")} | plain["stages"][last]
    told = {name: value for name, value in told.items() if name not in _OTHERWISE}
    told |= {name: value for name in ("epochs", "lr") if (value := distill.get(f"distill_{name}")) is not None}
    if student := student or distill.get("distill_student") or "":
        told = {name: value for name, value in told.items() if not name.startswith("lock_")}
    if distill.get("distill"):
        told |= {name: distill.get(name) for name in ("distill_ordinary", "distill_contrastive")}
    if (buckets / "manifest.json").is_file():
        told["distill_buckets"] = str(buckets)
    return arguments_of(
        told
        | {
            "seed": plain["seed"],
            "base": "train",
            "model": student or f"local-dir:{first or run.model(last)}",
            "train_data": train_data or (str(run.source) if source.is_file() else plain["data"]["train_data"]),
            "distill_model": str(teacher or run.fused),
            "logs": str(output.parent),
            "name": output.name,
        }
    )
