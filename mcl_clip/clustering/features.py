"""Stream shards through a frozen model: unit features, bit for bit the same under any ranks and workers."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from mcl_clip.clustering.encoder import Encoder, frozen
from mcl_clip.clustering.threads import encode_in_order
from mcl_clip.errors import UserError
from mcl_clip.loading.decode import DecodeError
from mcl_clip.loading.readers import from_readers
from mcl_clip.shards.manifest import Manifest
from mcl_clip.shards.pool import START_METHOD
from mcl_clip.shards.reader import ShardRows


@dataclass(frozen=True)
class ShardFeatures:
    """`features[tower]` [n, D] fp32 unit rows of one shard's rows `rows` (int64 [n], ascending). Requested
    rows that are not among them failed: no caption, or an image that does not decode."""

    ordinal: int
    rows: np.ndarray
    features: dict[str, np.ndarray]


def embed(
    encoder: Encoder,
    manifest: Manifest,
    requests: Iterable[tuple[int, np.ndarray]],
    *,
    batch_size: int,
    workers: int = 0,
) -> Iterator[ShardFeatures]:
    """Embed the chosen rows of shards, `requests` of (shard ordinal, ascending rows), in that order.

    Batches are fixed by (shard, rows, batch_size) alone and never cross shards, so the result does not depend
    on who else embeds what. Memory: one shard's features, the workers' prefetched batches. The model is
    put into evaluation mode and back. Raises `UserError` when its output depends on the batch (a BatchNorm
    without running statistics, a buffer that moves) or when a shard cannot be read.
    """
    loader = DataLoader(
        _Batches(manifest, encoder),
        sampler=_tasks(requests, batch_size),  # type: ignore[arg-type]
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=START_METHOD if workers else None,
        pin_memory=encoder.device.type == "cuda",
        generator=torch.Generator(),  # else the loader draws its workers' seeds from the global state
    )
    with frozen(encoder.model):
        parts: list[_Batch] = []
        outputs: list[dict[str, torch.Tensor]] = []
        for batch, output in encode_in_order(encoder, _sound(from_readers(loader))):
            parts.append(batch)
            outputs.append(output)
            if batch.last:
                yield _gather(encoder, parts, outputs)
                parts, outputs = [], []


@dataclass
class _Batch:
    ordinal: int
    rows: list[int]
    last: bool
    images: torch.Tensor | None = None
    texts: torch.Tensor | None = None
    error: str = ""

    def pin_memory(self) -> "_Batch":
        self.images = None if self.images is None else self.images.pin_memory()
        self.texts = None if self.texts is None else self.texts.pin_memory()
        return self


class _Batches(Dataset):
    """Reads and decodes one batch of one shard; holds the open shard and the functions, never the model."""

    def __init__(self, manifest: Manifest, encoder: Encoder):
        self.manifest = manifest
        self.transform, self.tokenize, self.towers = encoder.transform, encoder.tokenize, encoder.towers
        self._open: tuple[int, ShardRows] | None = None

    def __getitem__(self, task: tuple[int, list[int], bool]) -> _Batch:
        ordinal, rows, last = task
        try:
            if self._open is None or self._open[0] != ordinal:
                self._open = (ordinal, self.manifest.open_shard(ordinal))
            return self._read(self._open[1], ordinal, rows, last)
        except UserError as error:
            # Raised in a worker it would come back wrapped in a traceback.
            return _Batch(ordinal, [], last, error=str(error))

    def _read(self, shard: ShardRows, ordinal: int, rows: list[int], last: bool) -> _Batch:
        good: list[int] = []
        images: list[torch.Tensor] = []
        captions: list[str] = []
        for row in rows:
            caption = shard.read_caption(row) if self.manifest.has_captions else ""
            image = self._image(shard, row) if caption is not None else None
            if caption is not None and image is not None:
                good.append(row)
                images.append(image)
                captions.append(caption)
        batch = _Batch(ordinal, good, last)
        if good and self.towers != ("text",):
            batch.images = torch.stack(images)
        if good and "text" in self.towers:
            assert self.tokenize is not None
            batch.texts = self.tokenize(captions)
        return batch

    def _image(self, shard: ShardRows, row: int) -> torch.Tensor | None:
        # Decoded for the text tower too: which samples count as failed must not depend on the tower.
        try:
            return self.transform(shard.read_image(row))[0]
        except DecodeError:
            return None


def _tasks(requests: Iterable[tuple[int, np.ndarray]], batch_size: int) -> Iterator[tuple[int, list[int], bool]]:
    for ordinal, rows in requests:
        for start in range(0, max(len(rows), 1), batch_size):
            yield ordinal, rows[start : start + batch_size].tolist(), start + batch_size >= len(rows)


def _sound(batches: Iterable[_Batch]) -> Iterator[_Batch]:
    for batch in batches:
        if batch.error:
            raise UserError(batch.error)
        yield batch


def _gather(encoder: Encoder, parts: Sequence[_Batch], outputs: Sequence[dict[str, torch.Tensor]]) -> ShardFeatures:
    features = {}
    for tower in encoder.towers:
        blocks = [output[tower] for output in outputs if tower in output]
        features[tower] = torch.cat(blocks).cpu().numpy() if blocks else np.empty((0, 0), np.float32)
    rows = np.array([row for part in parts for row in part.rows], np.int64)
    return ShardFeatures(parts[0].ordinal, rows, features)
