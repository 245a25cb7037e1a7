"""All stage models -> the fused model."""

from typing import Any

from mcl_clip.artifacts import sha256_json
from mcl_clip.errors import UserError
from mcl_clip.fusion.files import is_fused, load_fused, read_fused_config, save_fused
from mcl_clip.fusion.load import fuse
from mcl_clip.models.stage_model import model_hash
from training.arrows.job import Job
from training.arrows.scores import score_once
from training.build import BuiltModel
from training.recipe_file import to_plain
from training.reporting import log


def fuse_stages(job: Job) -> None:
    """Fuse all stages into `fused/`, and score what came out; that of fewer stages, before, is replaced."""
    made_from = job.ranks.share(lambda: _made_from(job))
    job.ranks.on_first(lambda: _fuse(job, made_from))
    mark = {"stage": "fused", "made_from": sha256_json(made_from)}
    score_once(job, "fused", job.directory.root / "fused_validation.jsonl", mark, lambda: _open(job))


def _made_from(job: Job) -> dict[str, Any]:
    stages = [job.directory.model(stage) for stage in range(len(job.recipe.stages))]
    return {"fusion": job.recipe.fusion, "stages": [model_hash(stage) for stage in stages]}


def _fuse(job: Job, made_from: dict[str, Any]) -> None:
    recipe, fused = job.recipe, job.directory.fused
    if is_fused(fused):
        record = read_fused_config(fused)["card"].get("made_from")
        if record is None:
            raise UserError(f"{fused} was not written by this run; move it away, or choose another --name")
        if record == made_from:
            log.info(f"fused model: finished before, {fused}")
            return
    plain = to_plain(recipe)
    flags = {name: plain[name] for name in ("model", "data", "optimization", "clustering", "stages")}
    card = {"name": recipe.name, "recipe": flags, "made_from": made_from}
    stages = [job.directory.model(stage) for stage in range(len(recipe.stages))]
    save_fused(fuse(stages, fusion=recipe.fusion), fused, card)
    log.info(f"fused model of {len(stages)} stages: {fused}")


def _open(job: Job) -> BuiltModel:
    model: Any = load_fused(job.directory.fused, job.ranks.device, job.recipe.optimization.precision)
    model.output_dict = True
    return BuiltModel(model, {}, model.visual.preprocess_cfg, model.tokenizer)
