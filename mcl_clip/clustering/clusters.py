"""The clusters of one stage on disk: centroids, a label file a shard, and what they mean in `clusters.json`.

| file | content |
|---|---|
| `clusters.json` | written last: the commit; hashes of model, data, centroids and labels, and the summary |
| `centroids.safetensors` | one fp32 [K, D] tensor of unit rows for each clustered tower (`image`, `text`) |
| `shards.parquet` | shard name, samples, failed: row i is the shard of label file i |
| `labels/00/000/00000012.parquet` | shard, key, cluster (null: failed), distance, in the order of the shard |
| `features/00/000/00000012.safetensors` | fp16, row for row as the labels; only with `--mcl-keep-features` |
| `failed.jsonl` | shard and key of every failed sample |
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors.numpy import load_file

from mcl_clip.artifacts import atomic_path, read_json, sha256_file, sha256_json
from mcl_clip.errors import UserError
from mcl_clip.numbered import find_numbered
from mcl_clip.shards.columns import Strings

FORMAT = {"format": "mcl_clip clusters", "version": 1}
_HASHED = (
    "format",
    "version",
    "model_hash",
    "data_hash",
    "centroids_hash",
    "labels_hash",
    "previous",
    "settings",
)
_SCHEMA = pa.schema([("shard", pa.string()), ("key", pa.string()), ("cluster", pa.int32()), ("distance", pa.float32())])


@dataclass(frozen=True)
class LabelRows:
    """Labels of one shard in its order: `cluster` int32 (-1 = failed), `distance` fp32 (NaN = failed)."""

    keys: list[str]
    cluster: np.ndarray
    distance: np.ndarray


class Clusters:
    """A finished clusters directory; `info` is its `clusters.json`."""

    def __init__(self, directory: Path, info: dict):
        self.directory = directory
        self.info = info
        self.k: int = info["k"]
        self.hash: str = info["hash"]
        self.data_hash: str = info["data_hash"]
        self.model_hash: str = info["model_hash"]
        self.previous: list[str] = info["previous"]

    @classmethod
    def load(cls, directory: str | Path) -> "Clusters":
        """Open a directory; `UserError` when it is unfinished, of another format, or its centroids were
        changed.
        """
        directory = Path(directory)
        if not (directory / "clusters.json").exists():
            raise UserError(f"{directory} holds no finished clusters; run mcl-cluster again to finish them")
        info = read_json(directory / "clusters.json")
        if {name: info.get(name) for name in FORMAT} != FORMAT:
            raise UserError(
                f"{directory}/clusters.json is not of {FORMAT}; delete {directory} and run mcl-cluster again"
            )
        if info.get("hash") != hash_of(info) or info["centroids_hash"] != sha256_file(
            directory / "centroids.safetensors"
        ):
            raise UserError(f"{directory} was changed after it was made; delete it and run mcl-cluster again")
        return cls(directory, info)

    @cached_property
    def centroids(self) -> dict[str, np.ndarray]:
        """Unit centroids [K, D] fp32 by tower."""
        return load_file(self.directory / "centroids.safetensors")

    @cached_property
    def shard_names(self) -> Sequence[str]:
        """Source shards in the order of the label files."""
        return Strings(self._names)

    @cached_property
    def _names(self) -> pa.ChunkedArray:
        return pq.read_table(self.directory / "shards.parquet", columns=["shard"])["shard"].combine_chunks()

    def labels_of(self, shard: str) -> LabelRows:
        """Labels of a source shard by name; `UserError` when the clusters do not know it."""
        return read_labels(self.path_of(shard), shard)

    def path_of(self, shard: str) -> Path:
        """Label file of a source shard by name; `UserError` as above."""
        # Searched each time, a few ms among millions of names, which a table of them in every process would outweigh.
        ordinal = pc.index(self._names, pa.scalar(shard)).as_py()
        if ordinal < 0:
            raise UserError(
                f"shard {shard!r} has no labels in {self.directory}; cluster every stage on the same --train-data"
            )
        return labels_path(self.directory, ordinal)

    def check_made_from(self, data_hash: str) -> None:
        """Raise `UserError` unless the clusters were made from the data of this manifest hash."""
        if data_hash != self.data_hash:
            raise UserError(
                f"{self.directory} was made from other data ({self.data_hash[:12]}, not "
                f"{data_hash[:12]}); cluster this --train-data, or delete it"
            )


def check_chain(stages: Sequence[Clusters]) -> None:
    """Raise `UserError` unless stage i was clustered on the same data and after exactly stages 0 to i-1."""
    for index, clusters in enumerate(stages):
        clusters.check_made_from(stages[0].data_hash)
        if clusters.previous != [stage.hash for stage in stages[:index]]:
            before = ", ".join(str(stage.directory) for stage in stages[:index]) or "nothing"
            raise UserError(
                f"{clusters.directory} is not stage {index} after {before}: it was made after "
                f"{len(clusters.previous)} other stage(s); run mcl-cluster again with these as --previous"
            )


def hash_of(info: dict) -> str:
    """Hash of everything in `clusters.json` that pseudo-labels depend on."""
    return sha256_json({name: info[name] for name in _HASHED})


def labels_path(directory: Path, ordinal: int) -> Path:
    """Label file of the shard with this ordinal in the source manifest, or where it is written."""
    return find_numbered(directory / "labels", ordinal, ".parquet")


def features_path(directory: Path, ordinal: int) -> Path:
    """Feature file of the shard with this ordinal, where features are kept."""
    return find_numbered(directory / "features", ordinal, ".safetensors")


def write_labels(path: Path, shard: str, rows: LabelRows) -> None:
    """Write one shard's labels atomically."""
    failed = rows.cluster < 0
    columns = [
        pa.array([shard] * len(rows.keys), pa.string()),
        pa.array(rows.keys, pa.string()),
        pa.array(rows.cluster, pa.int32(), mask=failed),
        pa.array(rows.distance, pa.float32(), mask=failed),
    ]
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA), temporary)


def unreadable(shard: str, error: Exception) -> UserError:
    """What is said of a label file that is missing, broken or of another shard."""
    return UserError(f"labels of shard {shard!r} cannot be read: {error}; delete the clusters and make them again")


def read_labels(path: Path, shard: str) -> LabelRows:
    """Read one shard's labels; `UserError` when the file is missing, broken or of another shard."""
    try:
        table = pq.read_table(path, columns=["shard", "key", "cluster", "distance"])
    except (OSError, pa.ArrowInvalid) as error:
        raise unreadable(shard, error) from None
    names: Sequence[str] = table["shard"].unique().to_pylist()
    if any(name != shard for name in names):
        raise UserError(
            f"{path} holds labels of shard {names[0]!r}, not {shard!r}; delete the clusters and make them again"
        )
    return LabelRows(
        table["key"].to_pylist(),
        table["cluster"].fill_null(-1).to_numpy().astype(np.int32, copy=False),
        table["distance"].fill_null(np.nan).to_numpy().astype(np.float32, copy=False),
    )
