"""Source or buckets -> stage model: a stage is trained, or stage 0 kept as it is pretrained."""

import gc
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mcl_clip.loading.loader import GlobalBatchLoader
from mcl_clip.models.stage_model import model_hash
from mcl_clip.shards.manifest import Manifest
from mcl_clip.world import appears
from training.arithmetic import pixel_dtype
from training.arrows.job import Job
from training.arrows.saving import save_built
from training.arrows.scores import score_once
from training.arrows.stage import StageTraining
from training.arrows.student import taught_by
from training.arrows.text_vectors import text_vectors
from training.build import BuiltModel, check_locks, scratch_seed
from training.objectives import objective_of
from training.reporting import log
from training.run_directory import is_finished


def train(job: Job, stage: int, data: Manifest) -> None:
    """Make the model of a stage out of its data and the weights that it starts from."""
    keep = stage == 0 and job.recipe.base == "keep"
    weights = job.ranks.share(partial(_first_weights, job, stage))
    made_from = {
        "data": "none" if keep else data.hash,
        "weights": weights,
        **job.ranks.share(lambda: taught_by(job.recipe)),
    }
    model = job.directory.model(stage)
    if job.ranks.share(partial(is_finished, model, made_from)):
        log.info(f"stage {stage}: finished before, {model}")
    else:
        built = _build(job, stage)
        if stage == 0:
            check_locks(built.model, job.recipe.stages)
        if keep:
            job.ranks.on_first(partial(save_built, built, model, 0, made_from))
            log.info(f"stage 0: kept as it is pretrained, {model}")
        else:
            _train(job, stage, data, built, made_from)
            log.info(f"stage {stage}: finished, {model}")
        del built
        gc.collect()  # ends the loader's processes before the next arrow starts its own
    if keep:
        open_kept = partial(objective_of(job.recipe).build_from_stage, model, job.ranks.device)
        score_once(job, "stage_0", job.directory.stage(0) / "validation.jsonl", {"stage": 0, "epoch": 0}, open_kept)


def _train(job: Job, stage: int, data: Manifest, built: BuiltModel, made_from: Mapping[str, Any]) -> None:
    StageTraining(
        recipe=job.recipe,
        stage=stage,
        built=built,
        loader=_loader(job, stage, data, built),
        directory=job.directory.stage(stage),
        ranks=job.ranks,
        preemption=job.preemption,
        trackers=job.trackers,
        validation=job.validation,
        made_from=made_from,
    ).run()


def _first_weights(job: Job, stage: int) -> str:
    if stage == 0:
        return objective_of(job.recipe).first_weights()
    return "new" if job.recipe.stages[stage].init == "scratch" else model_hash(_init_directory(job, stage))


def _init_directory(job: Job, stage: int) -> Path:
    return job.directory.model(stage - 1 if job.recipe.stages[stage].init == "previous" else 0)


def _build(job: Job, stage: int) -> BuiltModel:
    objective = objective_of(job.recipe)
    if stage == 0:
        return objective.build_base(job.ranks.device)
    fresh = scratch_seed(job.recipe.seed, stage) if job.recipe.stages[stage].init == "scratch" else None
    return objective.build_from_stage(appears(_init_directory(job, stage), job.ranks), job.ranks.device, fresh)


def _loader(job: Job, stage: int, data: Manifest, built: BuiltModel) -> GlobalBatchLoader:
    recipe = job.recipe.data
    return GlobalBatchLoader(
        data,
        seed=job.recipe.seed,
        stage=stage,
        batch_size=recipe.batch_size,
        accum_freq=recipe.accum_freq,
        transform=objective_of(job.recipe).transform(built),
        tokenizer=built.tokenizer,
        rank=job.ranks.rank,
        world_size=job.ranks.world_size,
        workers=recipe.workers,
        policy=job.recipe.policy(stage),
        num_samples=recipe.train_num_samples,
        caption_probs=recipe.caption_probs,
        text_vectors=text_vectors(job, stage, built),
        device=job.ranks.device,
        dtype=pixel_dtype(job.recipe.optimization.precision, job.ranks.device),
        channels_last=job.recipe.optimization.channels_last,
        max_faults=recipe.max_faults,
        union=job.ranks.union,
    )
