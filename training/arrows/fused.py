"""All stage models -> the fused model."""

from typing import Any

from mcl_clip.artifacts import sha256_json
from mcl_clip.clustering.clusters import Clusters
from mcl_clip.errors import UserError
from mcl_clip.fusion.files import is_fused, load_fused, public, read_fused_config, save_fused
from mcl_clip.fusion.fit_pairs import fit_fusion, told
from mcl_clip.fusion.fused_model import FusedCLIP
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
    made_from: dict[str, Any] = {"fusion": job.recipe.fusion, "stages": [model_hash(stage) for stage in stages]}
    if job.recipe.fusion == "fitted" and job.held_out:
        made_from["fit_on"] = job.held_out.hash
    return made_from


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
    if recipe.fusion == "fitted":
        model = _fitted(job, fuse(stages, card=card, device=job.ranks.device))
    else:
        model = fuse(stages, fusion=recipe.fusion, card=card)
    save_fused(model, fused)
    log.info(f"fused model of {len(stages)} stages: {fused}")


def _fitted(job: Job, model: FusedCLIP) -> FusedCLIP:
    """The stages under weights fitted on --val-data, with negatives of the pseudo-labels that the run has made."""
    assert job.held_out is not None and job.recipe.reporting.val_data is not None
    places = [job.directory.clusters(stage) for stage in range(model.num_stages - 1)]
    fitted = fit_fusion(
        model,
        job.held_out,
        named=public(job.recipe.reporting.val_data),
        clusters=[Clusters.load(place) if (place / "clusters.json").is_file() else None for place in places],
        seed=job.recipe.seed,
        workers=job.recipe.data.workers,
        progress=True,
    )
    log.info(f"fused model: {told(fitted)}")
    return fitted


def _open(job: Job) -> BuiltModel:
    model: Any = load_fused(job.directory.fused, job.ranks.device, job.recipe.optimization.precision)
    model.output_dict = True
    return BuiltModel(model, {}, model.visual.preprocess_cfg, model.tokenizer)
