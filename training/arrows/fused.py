"""All stage models -> the fused model."""

from mcl_clip.errors import UserError
from mcl_clip.fusion.files import is_fused, read_fused_config, save_fused
from mcl_clip.fusion.load import fuse
from mcl_clip.models.stage_model import model_hash
from training.arrows.job import Job
from training.recipe_file import to_plain
from training.reporting import log


def fuse_stages(job: Job) -> None:
    """Fuse all stages into `fused/`; that of fewer stages, before the run was extended, is replaced."""
    job.ranks.on_first(lambda: _fuse(job))


def _fuse(job: Job) -> None:
    recipe, fused = job.recipe, job.directory.fused
    stages = [job.directory.model(stage) for stage in range(len(recipe.stages))]
    made_from = {"fusion": recipe.fusion, "stages": [model_hash(stage) for stage in stages]}
    if is_fused(fused):
        record = read_fused_config(fused)["card"].get("made_from")
        if record is None:
            raise UserError(f"{fused} was not written by this run; move it away, or choose another --name")
        if record == made_from:
            log.info(f"fused model: finished before, {fused}")
            return
    plain = to_plain(recipe)
    flags = {name: plain[name] for name in ("model", "data", "optimization", "clustering", "stages")}
    save_fused(
        fuse(stages, fusion=recipe.fusion), fused, {"name": recipe.name, "recipe": flags, "made_from": made_from}
    )
    log.info(f"fused model of {len(stages)} stages: {fused}")
