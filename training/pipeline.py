"""All arrows of a run, in order; each is skipped when what it makes stands finished and fresh on disk.

source index -> stage 0 -> clusters -> pseudo-labels -> buckets -> stage 1 -> ... -> fused model
"""

import contextlib
import gc
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from mcl_clip.clustering.pseudo_labels import PseudoLabels, UserLabels
from mcl_clip.clustering.stage import cluster_stage
from mcl_clip.errors import UserError
from mcl_clip.fusion.files import is_fused, read_fused_config, save_fused
from mcl_clip.fusion.load import fuse
from mcl_clip.loading.augment import train_transform
from mcl_clip.loading.loader import GlobalBatchLoader
from mcl_clip.models.stage_model import model_hash
from mcl_clip.shards.buckets import write_buckets
from mcl_clip.shards.index import index_sources
from mcl_clip.shards.manifest import Manifest
from mcl_clip.shards.sources import expand_sources, manifest_directory
from training.build import BuiltModel, base_weights, build_base, build_from_stage, check_locks, scratch_seed
from training.preemption import Preemption
from training.ranks import Ranks
from training.recipe import Recipe
from training.recipe_file import to_plain
from training.reporting import Trackers, log, logging_to
from training.run_directory import RunDirectory, claim, commit, held, is_finished, release, sweep
from training.stage import StageTraining, save_built
from training.validation import Validation

CLUSTER_PRECISION = {"fp32": "fp32", "amp": "fp16", "fp16": "fp16", "pure_fp16": "fp16"}  # the others: bf16


def run(recipe: Recipe, ranks: Ranks, preemption: Preemption) -> None:
    """Train every stage of the recipe and fuse them, into `recipe.run_directory`; call it on every rank.

    Raises `UserError`, `Preempted` and `NonFiniteLoss`; whatever is raised, the same call goes on from there.
    """
    directory = RunDirectory(recipe.run_directory)
    created = ranks.on_first(lambda: claim(directory, recipe))
    if not directory.root.is_dir():
        raise UserError(
            f"rank {ranks.rank} does not see {directory.root}: --logs must lie on a disk that all machines share"
        )
    try:
        with held(directory) if ranks.is_first else contextlib.nullcontext():
            ranks.on_first(lambda: sweep(directory))
            with logging_to(recipe, ranks), _fast_arithmetic(ranks.device):
                _run(recipe, directory, ranks, preemption)
    except UserError:
        release(directory, bool(created))
        raise


def _run(recipe: Recipe, directory: RunDirectory, ranks: Ranks, preemption: Preemption) -> None:
    with preemption.excusing_workers():
        source = _index(recipe.data.train_data, recipe, directory.source, ranks)
        held_out = _index(recipe.reporting.val_data, recipe, directory.validation, ranks)
    assert source is not None
    _check(recipe, source)
    validation = Validation(recipe, held_out, ranks.device)
    trackers = Trackers(recipe, to_plain(recipe), silent=not ranks.is_first)
    ranks.on_first(lambda: commit(directory, recipe))
    job = _Job(recipe, directory, source, ranks, preemption, trackers, validation)
    for stage in range(len(recipe.stages)):
        job.train(stage)
    if recipe.num_stages:
        ranks.on_first(job.fuse)
    trackers.close()


@dataclass(frozen=True)
class _Job:
    recipe: Recipe
    directory: RunDirectory
    source: Manifest
    ranks: Ranks
    preemption: Preemption
    trackers: Trackers
    validation: Validation

    def train(self, stage: int) -> None:
        """Make the model of a stage, with the clusters and buckets that it needs."""
        keep = stage == 0 and self.recipe.base == "keep"
        with self.preemption.excusing_workers():
            data = None if keep else self.source if stage == 0 else self.buckets(stage)
        weights = self.ranks.share(partial(self._first_weights, stage))
        made_from = {"data": data.hash if data else "none", "weights": weights}
        if is_finished(self.directory.model(stage), made_from):
            log.info(f"stage {stage}: finished before, {self.directory.model(stage)}")
            return
        built = self._build(stage)
        if stage == 0:
            check_locks(built.model, self.recipe.stages)
        if data is None:
            self.ranks.on_first(partial(save_built, built, self.directory.model(0), 0, made_from))
            log.info(f"stage 0: kept as it is pretrained, {self.directory.model(0)}")
            return
        training = StageTraining(
            recipe=self.recipe,
            stage=stage,
            built=built,
            loader=self._loader(stage, data, built),
            directory=self.directory.stage(stage),
            ranks=self.ranks,
            preemption=self.preemption,
            trackers=self.trackers,
            validation=self.validation,
            made_from=made_from,
        )
        training.run()
        log.info(f"stage {stage}: finished, {self.directory.model(stage)}")
        del training, built
        gc.collect()  # ends the loader's processes before the next phase starts its own

    def buckets(self, stage: int) -> Manifest:
        """The buckets of a stage, from the user's labels or from the clusters of all stages before it."""
        labels_path = self.recipe.stages[stage].labels
        labels = UserLabels(labels_path) if labels_path else self._pseudo_labels(stage)
        if not (self.directory.buckets(stage) / "manifest.json").exists():
            log.info(f"stage {stage}: bucketing")
        return write_buckets(
            self.source,
            labels,
            self.directory.buckets(stage),
            index_only=self.recipe.data.index_only,
            shard_size=self.recipe.data.shard_size,
            workers=max(self.recipe.data.workers, 1),
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            barrier=self.ranks.barrier,
            progress=self.ranks.is_first,
        )

    def _pseudo_labels(self, stage: int) -> PseudoLabels:
        previous: list[Path] = []
        for earlier in range(stage):
            self._cluster(earlier, tuple(previous))
            previous.append(self.directory.clusters(earlier))
        return PseudoLabels(previous)

    def _cluster(self, stage: int, previous: tuple[Path, ...]) -> None:
        clustering, out = self.recipe.clustering, self.directory.clusters(stage)
        if not (out / "clusters.json").exists():
            log.info(f"stage {stage}: clustering")
        try:
            cluster_stage(
                self.directory.model(stage),
                self.source,
                out,
                k=self.recipe.stages[stage].clusters,
                text_k=clustering.text_clusters,
                on=clustering.cluster_on,
                seed=self.recipe.seed,
                reservoir=clustering.reservoir,
                precision=CLUSTER_PRECISION.get(self.recipe.optimization.precision, "bf16"),
                previous=previous,
                keep_features=clustering.keep_features,
                workers=self.recipe.data.workers,
                device=str(self.ranks.device),
                rank=self.ranks.rank,
                world_size=self.ranks.world_size,
                barrier=self.ranks.barrier,
                progress=self.ranks.is_first,
            )
        except UserError:
            # Too many clusters for this model, say: the same command with fewer shall find a clean place.
            if self.ranks.is_first and not (out / "clusters.json").exists():
                shutil.rmtree(out, ignore_errors=True)
            raise

    def fuse(self) -> None:
        """Fuse all stages into `fused/`; that of fewer stages, before the run was extended, is replaced."""
        stages = [self.directory.model(stage) for stage in range(len(self.recipe.stages))]
        made_from = {"fusion": self.recipe.fusion, "stages": [model_hash(stage) for stage in stages]}
        fused = self.directory.fused
        if is_fused(fused):
            record = read_fused_config(fused)["card"].get("made_from")
            if record is None:
                raise UserError(f"{fused} was not written by this run; move it away, or choose another --name")
            if record == made_from:
                log.info(f"fused model: finished before, {fused}")
                return
        plain = to_plain(self.recipe)
        flags = {name: plain[name] for name in ("model", "data", "optimization", "clustering", "stages")}
        card = {"name": self.recipe.name, "recipe": flags, "made_from": made_from}
        save_fused(fuse(stages, fusion=self.recipe.fusion), fused, card)
        log.info(f"fused model of {len(stages)} stages: {fused}")

    def _first_weights(self, stage: int) -> str:
        init = self.recipe.stages[stage].init
        if stage == 0:
            return base_weights(self.recipe.model)
        return "new" if init == "scratch" else model_hash(self._init_directory(stage))

    def _init_directory(self, stage: int) -> Path:
        return self.directory.model(stage - 1 if self.recipe.stages[stage].init == "previous" else 0)

    def _build(self, stage: int) -> BuiltModel:
        precision, device, seed = self.recipe.optimization.precision, self.ranks.device, self.recipe.seed
        if stage == 0:
            return build_base(self.recipe.model, precision, seed, device)
        fresh = scratch_seed(seed, stage) if self.recipe.stages[stage].init == "scratch" else None
        return build_from_stage(self._init_directory(stage), precision, device, fresh)

    def _loader(self, stage: int, data: Manifest, built: BuiltModel) -> GlobalBatchLoader:
        recipe = self.recipe.data
        return GlobalBatchLoader(
            data,
            seed=self.recipe.seed,
            stage=stage,
            batch_size=recipe.batch_size,
            accum_freq=recipe.accum_freq,
            transform=train_transform(built.preprocess_cfg, recipe.aug_cfg),
            tokenizer=built.tokenizer,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            workers=recipe.workers,
            policy=recipe.policy,
            num_samples=recipe.train_num_samples,
            device=self.ranks.device,
        )


def _index(spec: str | None, recipe: Recipe, directory: Path, ranks: Ranks) -> Manifest | None:
    """The index of the tars that `spec` names; a directory that has one brings its own."""
    if not spec:
        return None
    ready = manifest_directory(spec)
    if ready:
        return Manifest.load(ready)
    return index_sources(
        expand_sources(spec),
        directory,
        workers=max(recipe.data.workers, 1),
        caption_key=recipe.data.caption_key,
        rank=ranks.rank,
        world_size=ranks.world_size,
        barrier=ranks.barrier,
        progress=ranks.is_first,
    )


def _check(recipe: Recipe, source: Manifest) -> None:
    """`UserError` for what would fail only hours later."""
    if source.kind != "source":
        raise UserError(
            f"--train-data {source.directory} holds {source.kind}, not source shards; give the tars it was made from"
        )
    failed = source.shards["failed"].to_numpy()
    empty = [
        name
        for name, size, lost in zip(source.shard_names, source.shard_size, failed, strict=True)
        if lost and not size
    ]
    if empty:
        where = f"under {source.caption_key!r} of its .json" if source.caption_key else "in .txt members"
        raise UserError(
            f"shard {empty[0]} has no sample with an image and a caption {where}; "
            "mend it, or leave it out of --train-data"
        )
    if source.num_samples < recipe.data.global_batch:
        raise UserError(
            f"{source.num_samples} samples are fewer than one global batch of {recipe.data.global_batch} "
            "(--batch-size x --accum-freq x processes): lower --batch-size or bring more data"
        )
    for stage in recipe.stages[: recipe.num_stages]:
        if stage.clusters > source.num_samples:
            raise UserError(
                f"--mcl-clusters {stage.clusters} is more than the {source.num_samples} samples; choose fewer"
            )
        if stage.clusters > recipe.clustering.reservoir:
            raise UserError(
                f"--mcl-clusters {stage.clusters} is more than the {recipe.clustering.reservoir} samples "
                "that k-means is fitted on; raise --mcl-reservoir"
            )
    for stage in recipe.stages[1:]:
        if stage.labels:
            UserLabels(stage.labels)


@contextlib.contextmanager
def _fast_arithmetic(device: torch.device) -> Iterator[None]:
    """TF32 and cuDNN's search on NVIDIA devices, as open_clip_train sets them; put back after."""
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark = before
