"""Stage models, data and hand-made cluster directories for the tests of clustering."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from mcl_clip.artifacts import sha256_file, write_json
from mcl_clip.clustering.clusters import FORMAT, Clusters, LabelRows, hash_of, labels_path, write_labels
from mcl_clip.models.stage_model import save_stage_model
from tests.tiny_models import TINY, tiny_model


def stage_directory(directory: Path, kind: str = "vit", seed: int = 0) -> Path:
    """A stage directory with a tiny model of random weights."""
    model = tiny_model(kind, seed)
    save_stage_model(model, directory, model_cfg=TINY[kind], preprocess_cfg=model.visual.preprocess_cfg)
    return directory


def write_clusters(
    directory: Path,
    labels: Mapping[str, Mapping[str, int | None]],
    *,
    k: int = 10,
    data_hash: str = "data",
    model_hash: str = "model",
    previous: Sequence[Path] = (),
) -> Path:
    """A finished clusters directory with these labels, by shard and key."""
    directory.mkdir(parents=True)
    for ordinal, (shard, rows) in enumerate(labels.items()):
        cluster = np.array([-1 if label is None else label for label in rows.values()], np.int32)
        distance = np.where(cluster < 0, np.nan, 0.5).astype(np.float32)
        write_labels(labels_path(directory, ordinal), shard, LabelRows(list(rows), cluster, distance))
    pq.write_table(pa.table({"shard": list(labels)}), directory / "shards.parquet")
    save_file({"image": np.eye(k, dtype=np.float32)}, directory / "centroids.safetensors")
    info = {
        **FORMAT,
        "k": k,
        "data_hash": data_hash,
        "model_hash": model_hash,
        "previous": [Clusters.load(earlier).hash for earlier in previous],
        "settings": {},
        "centroids_hash": sha256_file(directory / "centroids.safetensors"),
        "labels_hash": repr(labels),
    }
    write_json(directory / "clusters.json", {"hash": hash_of(info), **info})
    return directory
