"""Manifests over tiny real tars, with labels given by hand, and a tokenizer that needs no vocabulary."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mcl_clip.loading.augment import TrainTransform
from mcl_clip.shards.index import index_sources
from mcl_clip.shards.manifest import Manifest
from tests.tars import write_shards

TRANSFORM = TrainTransform((16, 16), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), scale=(0.5, 1.0))


def make_index(directory: Path, num_shards: int, samples_per_shard: int, **options) -> Path:
    """Tars and their index; returns the index's directory."""
    index_sources(write_shards(directory / "tars", num_shards, samples_per_shard, **options), directory / "index")
    return directory / "index"


def labelled(index: Path, labels: Sequence[str]) -> Manifest:
    """The index as if its shards were buckets of these labels."""
    manifest = Manifest.load(index)
    manifest.label_paths = sorted(set(labels))
    manifest.shard_label = np.array([manifest.label_paths.index(label) for label in labels], np.int32)
    return manifest


def tokenize(captions: list[str]) -> torch.Tensor:
    """int64 [n, 8]: bytes of the end of the caption's number and shard."""
    digits = [[int(c) for c in caption if c.isdigit()][:8] for caption in captions]
    return torch.tensor([row + [10] * (8 - len(row)) for row in digits])


def planned_keys(manifest: Manifest, shard: np.ndarray, ordinal: np.ndarray) -> list[str]:
    """Source keys of what a plan names, by way of the manifest."""
    return ["/".join(manifest.open_shard(int(s)).source_of(int(o))) for s, o in zip(shard, ordinal, strict=True)]
