"""What one rank needs to know to cluster a stage, and how the ranks meet."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mcl_clip.clustering.clusters import FORMAT, Clusters, features_path, labels_path
from mcl_clip.clustering.encoder import AUTOCAST, TOWERS, Encoder
from mcl_clip.clustering.reservoir import hash_limit
from mcl_clip.errors import UserError
from mcl_clip.numbered import find_numbered
from mcl_clip.shards.manifest import Manifest
from mcl_clip.world import World


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the clusters of given data and model, bit for bit on one kind of device.

    `k` clusters of the tower `on` (image or text); with image-text, the k x text_k products of both (text_k
    0: k). `reservoir`: most samples to fit on. `batch_size`: samples a rank embeds at once. `precision`:
    fp32, bf16, fp16.
    """

    k: int
    text_k: int = 0
    on: str = "image"
    seed: int = 0
    reservoir: int = 1_000_000
    restarts: int = 3
    batch_size: int = 256
    precision: str = "fp32"

    def __post_init__(self):
        for flag, word, choices in (
            ("--mcl-cluster-on", self.on, list(TOWERS)),
            ("--precision", self.precision, list(AUTOCAST)),
        ):
            if word not in choices:
                raise UserError(f"{flag} is {word!r}; choose one of {', '.join(choices)}")
        if self.text_k and self.on != "image-text":
            raise UserError("--mcl-text-clusters needs --mcl-cluster-on image-text")
        for name, value in (
            ("--mcl-clusters", self.k),
            ("--mcl-reservoir", self.reservoir),
            ("the number of restarts", self.restarts),
            ("the batch size", self.batch_size),
        ):
            if value < 1:
                raise UserError(f"{name} is {value}; it must be at least 1")
        for name, value in (("--mcl-text-clusters", self.text_k), ("--seed", self.seed)):
            if value < 0:
                raise UserError(f"{name} is {value}; it cannot be negative")

    @property
    def clusters_by_tower(self) -> dict[str, int]:
        """Number of clusters of each clustered tower; a sample's cluster is its index in their product."""
        if self.on == "image-text":
            return {"image": self.k, "text": self.text_k or self.k}
        return {self.on: self.k}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One rank's view of clustering one stage into `out`."""

    out: Path
    manifest: Manifest
    settings: Settings
    model_hash: str
    previous: list[Clusters]
    load_encoder: Callable[[], Encoder]
    keep_features: bool = False
    workers: int = 0
    world: World = field(default_factory=World)
    progress: bool = False

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What a directory must have been made from to be this job's."""
        return {
            **FORMAT,
            "model_hash": self.model_hash,
            "data_hash": self.manifest.hash,
            "previous": [clusters.hash for clusters in self.previous],
            "settings": asdict(self.settings),
        }

    @property
    def limit(self) -> int | None:
        """Hash limit of the reservoir; None when all samples fit."""
        return hash_limit(self.manifest.num_samples, self.settings.reservoir)

    @cached_property
    def encoder(self) -> Encoder:
        """The stage's model, loaded only where something is embedded."""
        return self.load_encoder()

    @property
    def centroids_path(self) -> Path:
        return self.out / "centroids.safetensors"

    def reservoir_path(self, ordinal: int) -> Path:
        """Features of one shard's reservoir samples, until the clusters are committed."""
        return find_numbered(self.out / "reservoir", ordinal, ".safetensors")

    def sums_path(self, run: int) -> Path:
        """Sums over one run of shards, until the clusters are committed."""
        return find_numbered(self.out / "sums", run, ".safetensors")

    def ordinals(self) -> range:
        """The shards of this rank."""
        return range(self.world.rank, self.manifest.num_shards, self.world.world_size)

    def is_labelled(self, ordinal: int) -> bool:
        """Whether all that a shard is to leave behind is there."""
        kept = not self.keep_features or features_path(self.out, ordinal).exists()
        return kept and labels_path(self.out, ordinal).exists()

    def together(self, phase: Callable[["Job"], None], *, alone: bool = False) -> None:
        """Run this rank's part of a phase (`alone`: rank 0 does it), wait for all, raise a user error on
        every rank.
        """
        error = None
        if self.world.is_first or not alone:
            try:
                phase(self)
            except UserError as caught:
                error = str(caught)
        errors = self.world.gather(error)
        self.world.share(lambda: _raise_first(errors))


def _raise_first(errors: list[str | None]) -> None:
    for error in filter(None, errors):
        raise UserError(error)
