"""All stage models -> the fused model."""

import shutil
from typing import Any

from mcl_clip.artifacts import sha256_json
from mcl_clip.clustering.clusters import Clusters
from mcl_clip.errors import UserError
from mcl_clip.fusion.files import is_fused, load_fused, public, read_fused_config, save_fused
from mcl_clip.fusion.fit_pairs import fit_fusion, told
from mcl_clip.fusion.fused_images import FusedImages
from mcl_clip.fusion.fused_model import FusedCLIP
from mcl_clip.fusion.load import fuse
from mcl_clip.models.stage_model import model_hash
from mcl_clip.world import appears
from training.arrows.job import Job
from training.arrows.scores import score_once
from training.build import BuiltModel
from training.recipe_file import to_plain
from training.reporting import log
from training.run_directory import began_anew


def fuse_stages(job: Job) -> None:
    """Fuse all stages into `fused/`, and score what came out; that of fewer stages, before, is replaced."""
    made_from = job.ranks.share(lambda: _made_from(job))
    if job.ranks.share(lambda: _is_finished(job, made_from)):
        log.info(f"fused model: finished before, {job.directory.fused}")
    elif job.recipe.fusion == "fitted":
        fitted = _fitted(job, made_from)
        job.ranks.on_first(lambda: _save(job, fitted))
    else:
        job.ranks.on_first(lambda: _save(job, _fused(job, made_from)))
    mark = {"stage": "fused", "made_from": sha256_json(made_from)}
    score_once(job, "fused", job.directory.root / "fused_validation.jsonl", mark, lambda: _open(job))


def _made_from(job: Job) -> dict[str, Any]:
    stages = [model_hash(stage) for stage in _stages(job)]
    made_from: dict[str, Any] = {"fusion": job.recipe.fusion, "stages": stages}
    if job.recipe.objective.fuse_on:
        made_from["fuse_on"] = job.recipe.objective.fuse_on
    if job.recipe.fusion == "fitted" and job.to_fit:
        made_from["fit_on"] = job.to_fit.hash
    return made_from


def _is_finished(job: Job, made_from: dict[str, Any]) -> bool:
    fused = job.directory.fused
    if not is_fused(fused):
        return False
    record = read_fused_config(fused)["card"].get("made_from")
    if record is None:
        raise UserError(f"{fused} was not written by this run; move it away, or choose another --name")
    return record == made_from


def _stages(job: Job) -> list:
    return [job.directory.model(stage) for stage in range(len(job.recipe.stages))]


def _fused(job: Job, made_from: dict[str, Any]) -> FusedImages:
    card = _card(job, made_from)
    return fuse(_stages(job), job.recipe.fusion, card=card, output=job.recipe.objective.fuse_on)


def _card(job: Job, made_from: dict[str, Any]) -> dict[str, Any]:
    plain = to_plain(job.recipe)
    flags = {name: plain[name] for name in ("model", "data", "optimization", "clustering", "stages")}
    return {"name": job.recipe.name, "recipe": flags, "made_from": made_from}


def _fitted(job: Job, made_from: dict[str, Any]) -> FusedCLIP:
    """The stages under weights fitted on what no stage was trained on, with negatives of the run's pseudo-labels."""
    stages, data, recipe = _stages(job), job.to_fit, job.recipe
    assert data is not None
    spec = recipe.data.train_data if data.apart else recipe.reporting.val_data
    model = fuse([appears(stage, job.ranks) for stage in stages], card=_card(job, made_from), device=job.ranks.device)
    assert isinstance(model, FusedCLIP)
    places = [job.directory.clusters(stage) for stage in range(len(stages) - 1)]
    with job.preemption.excusing_workers():
        fitted = fit_fusion(
            model,
            data,
            job.directory.fit,
            named=public(spec or "synthetic samples"),
            made_from=made_from,
            clusters=[Clusters.load(place) if (place / "clusters.json").is_file() else None for place in places],
            pretrained=not began_anew(stages[0]),
            seed=recipe.seed,
            workers=recipe.data.workers,
            world=job.ranks,
            progress=job.ranks.is_first,
        )
    log.info(f"fused model: {told(fitted)}")
    return fitted


def _save(job: Job, model: FusedImages) -> None:
    save_fused(model, job.directory.fused)
    shutil.rmtree(job.directory.fit, ignore_errors=True)
    log.info(f"fused model of {model.num_stages} stages: {job.directory.fused}")


def _open(job: Job) -> BuiltModel:
    model: Any = load_fused(job.directory.fused, job.ranks.device, job.recipe.optimization.precision)
    model.output_dict = True
    return BuiltModel(model, {}, model.visual.preprocess_cfg, model.tokenizer)
