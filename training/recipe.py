"""The recipe of a run: every flag, resolved once, as frozen values; `recipe.yaml` in the run directory."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcl_clip.plan.policy import Policy
from mcl_clip.shards.resize import Resize
from training.objective_recipe import FREE, DistillRecipe, ObjectiveRecipe


@dataclass(frozen=True, kw_only=True)
class ModelRecipe:
    """Architecture, first weights and preprocessing; open_clip's flags."""

    model: str
    pretrained: str
    pretrained_image: bool
    siglip: bool
    force_quick_gelu: bool
    force_custom_text: bool
    force_patch_dropout: float | None
    force_image_size: int | list[int] | None
    force_context_length: int | None
    image_mean: list[float] | None
    image_std: list[float] | None
    image_interpolation: str | None
    image_resize_mode: str | None
    cache_dir: str | None = field(metadata=FREE)


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """From tars to global batches. `global_batch` = batch size x ranks x accumulation, in samples."""

    train_data: str | None = field(metadata=FREE)
    dataset_type: str = field(metadata=FREE)
    csv_img_key: str = field(metadata=FREE)
    csv_caption_key: str = field(metadata=FREE)
    csv_separator: str = field(metadata=FREE)
    train_data_upsampling_factors: str | None
    train_num_samples: int | None
    caption_key: str | None
    caption_probs: list[float] | None
    fit_share: float | None
    fit_group: str | None
    no_text_cache: bool = field(metadata=FREE)
    skip_broken: bool = field(metadata=FREE)
    max_faults: float = field(metadata=FREE)
    global_batch: int
    batch_size: int = field(metadata=FREE)
    accum_freq: int = field(metadata=FREE)
    workers: int = field(metadata=FREE)
    aug_cfg: dict[str, Any]
    leftovers: str
    min_segment: int
    lanes: int | None
    window: int | None
    shard_size: int
    index_only: bool
    resize: int | None = None
    resize_quality: int = 90

    @property
    def smaller(self) -> Resize | None:
        """What makes the pictures of buckets smaller."""
        return Resize(self.resize, self.resize_quality) if self.resize is not None else None


@dataclass(frozen=True, kw_only=True)
class OptimizationRecipe:
    """Loss, optimizer and schedule; open_clip's flags.

    `diverging_ranks` is the number of ranks where the gradient depends on it, else None.
    """

    precision: str
    opt: str
    beta1: float | None
    beta2: float | None
    eps: float | None
    wd: float
    momentum: float | None
    opt_kwargs: dict[str, Any] | None
    wd_exclude: list[str] | None
    image_layer_decay: float | None
    text_layer_decay: float | None
    grad_clip_norm: float | None
    lr_scheduler: str
    skip_scheduler: bool
    epochs_cooldown: int | None
    lr_cooldown_end: float
    lr_cooldown_power: float
    use_bn_sync: bool
    local_loss: bool
    gather_with_grad: bool
    mask_identical: bool
    channels_last: bool = False
    diverging_ranks: int | None
    grad_checkpointing: bool = field(metadata=FREE)
    torchcompile: bool = field(metadata=FREE)
    torchcompile_mode: str | None = field(metadata=FREE)
    torchcompile_backend: str | None = field(metadata=FREE)
    ddp_static_graph: bool = field(metadata=FREE)


@dataclass(frozen=True, kw_only=True)
class ClusteringRecipe:
    """What k-means is fitted on."""

    cluster_on: str
    text_clusters: int | None
    reservoir: int
    keep_features: bool = field(metadata=FREE)


@dataclass(frozen=True, kw_only=True)
class StageRecipe:
    """One stage; what a recipe file may override by stage.

    `clusters` of this stage's embeddings make the next one's buckets; `labels` is a parquet file of the user's own
    that takes the place of all clusters for this stage. ordinary: as of `Policy`, where there are buckets.
    """

    epochs: int
    lr: float
    warmup: int
    lock_image: bool
    lock_image_unlocked_groups: int
    lock_image_freeze_bn_stats: bool
    lock_text: bool
    lock_text_unlocked_layers: int
    lock_text_freeze_layer_norm: bool
    init: str
    clusters: int
    labels: str | None = None
    ordinary: float = 0.0


@dataclass(frozen=True, kw_only=True)
class SavingRecipe:
    """When to checkpoint: by epochs, steps and minutes."""

    save_frequency: int = field(metadata=FREE)
    save_steps: int = field(metadata=FREE)
    save_minutes: float = field(metadata=FREE)
    keep_checkpoints: int = field(metadata=FREE)


@dataclass(frozen=True, kw_only=True)
class ReportingRecipe:
    """What is evaluated while training, and where it is told."""

    val_data: str | None = field(metadata=FREE)
    val_num_samples: int | None = field(metadata=FREE)
    val_frequency: int = field(metadata=FREE)
    imagenet_val: str | None = field(metadata=FREE)
    zeroshot_frequency: int = field(metadata=FREE)
    log_every_n_steps: int = field(metadata=FREE)
    log_local: bool = field(metadata=FREE)
    report_to: str = field(metadata=FREE)
    wandb_notes: str = field(metadata=FREE)
    wandb_project_name: str = field(metadata=FREE)
    debug: bool = field(metadata=FREE)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole run. `base` is "train" or "keep" (stage 0 as it is pretrained); `stages[s]` is stage s, 0 to S."""

    name: str = field(metadata=FREE)
    logs: str = field(metadata=FREE)
    seed: int
    base: str
    fusion: str
    model: ModelRecipe
    objective: ObjectiveRecipe
    data: DataRecipe
    optimization: OptimizationRecipe
    clustering: ClusteringRecipe
    distill: DistillRecipe
    stages: tuple[StageRecipe, ...]
    saving: SavingRecipe
    reporting: ReportingRecipe

    @property
    def run_directory(self) -> Path:
        """LOGS/NAME."""
        return Path(self.logs) / self.name

    def policy(self, stage: int) -> Policy:
        """How a stage's global batches are made of buckets, some of them of all."""
        ordinary = self.stages[stage].ordinary if stage else self.distill.ordinary
        return Policy(
            leftovers=self.data.leftovers,
            min_segment=self.data.min_segment,
            lanes=self.data.lanes,
            window=self.data.window,
            ordinary=ordinary,
        )

    @property
    def num_stages(self) -> int:
        """Stages after stage 0."""
        return len(self.stages) - 1


GROUPS = {
    "model": ModelRecipe,
    "objective": ObjectiveRecipe,
    "data": DataRecipe,
    "optimization": OptimizationRecipe,
    "clustering": ClusteringRecipe,
    "distill": DistillRecipe,
    "saving": SavingRecipe,
    "reporting": ReportingRecipe,
}
