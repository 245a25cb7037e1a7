"""Stream shards through a frozen model: unit features by shard, the same bits under any number of ranks and workers."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize
from torch.utils.data import DataLoader, Dataset

from mcl_clip.errors import UserError

TOWERS = {"image": ("image",), "text": ("text",), "image-text": ("image", "text")}
AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class ShardFeatures:
    """What one shard gave: `features[tower]` [n, D] fp32 unit rows of the source rows `rows` (int64 [n]), and the
    source rows that failed (no caption, or an image that does not decode)."""

    ordinal: int
    rows: np.ndarray
    failed: np.ndarray
    features: dict[str, np.ndarray]


@dataclass(frozen=True)
class Encoder:
    """A model and how its inputs are made.

    `decode` turns an image's bytes into a uint8 tensor [3, H, W] (in worker processes) and raises `ValueError` on a
    broken image; `prepare` turns such a batch into the model's float input on its device; `tokenize` turns captions
    into ids. `precision` is fp32, or bf16/fp16 under autocast.
    """

    model: nn.Module
    decode: Callable[[bytes], torch.Tensor]
    prepare: Callable[[torch.Tensor], torch.Tensor]
    tokenize: Callable[[list[str]], torch.Tensor]
    towers: tuple[str, ...] = ("image",)
    precision: str = "fp32"


def embed(
    encoder: Encoder,
    manifest: Any,
    requests: Iterable[tuple[int, np.ndarray]],
    *,
    batch_size: int,
    workers: int = 0,
) -> Iterator[ShardFeatures]:
    """Embed the chosen rows of shards, `requests` of (shard ordinal, ascending rows), in that order.

    Batches are fixed by (shard, rows, batch_size) alone and never cross shards, so the result does not depend on who
    else embeds what. Memory: one shard's features and the workers' prefetched batches. The model is put into
    evaluation mode and back. Raises `UserError` when its output depends on the batch (a BatchNorm without running
    statistics, a buffer that moves) or when a shard cannot be read.
    """
    device = next(encoder.model.parameters()).device
    loader = DataLoader(
        _Batches(manifest, encoder),
        sampler=_tasks(requests, batch_size),  # type: ignore[arg-type]
        batch_size=None,
        num_workers=workers,
        pin_memory=device.type == "cuda",
    )
    with frozen(encoder.model):
        parts: list[_Batch] = []
        outputs: list[dict[str, torch.Tensor]] = []
        for batch in loader:
            if batch.error:
                raise UserError(batch.error)
            parts.append(batch)
            outputs.append(_encode(encoder, batch, device))
            if batch.last:
                yield _gather(encoder, parts, outputs)
                parts, outputs = [], []


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, every module's own mode after; `UserError` when the model is not a pure function."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise UserError(
                f"{name} is a BatchNorm without running statistics: a sample's feature would depend on its batch; "
                "train it with track_running_stats=True"
            )
    modes = [(module, module.training) for module in model.modules()]
    buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    model.eval()
    try:
        yield
        moved = [name for name, buffer in model.named_buffers() if not _same(buffer, buffers[name])]
        if moved:
            raise UserError(
                f"buffer {moved[0]} of the model moves in evaluation mode: features would depend on the order of the "
                "samples; fix the module that writes it"
            )
    finally:
        for module, training in modes:
            module.training = training


@dataclass
class _Batch:
    ordinal: int
    rows: list[int]
    failed: list[int]
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

    def __init__(self, manifest: Any, encoder: Encoder):
        self.manifest = manifest
        self.decode, self.tokenize, self.towers = encoder.decode, encoder.tokenize, encoder.towers
        self._open: tuple[int, Any] | None = None

    def __getitem__(self, task: tuple[int, list[int], bool]) -> _Batch:
        ordinal, rows, last = task
        try:
            if self._open is None or self._open[0] != ordinal:
                self._open = (ordinal, self.manifest.open_shard(ordinal))
            return self._read(self._open[1], ordinal, rows, last)
        except UserError as error:
            # Raised in a worker it would come back wrapped in a traceback.
            return _Batch(ordinal, [], [], last, error=str(error))

    def _read(self, shard: Any, ordinal: int, rows: list[int], last: bool) -> _Batch:
        good, failed, images, captions = [], [], [], []
        for row in rows:
            caption = shard.read_caption(row)
            image = self._image(shard, row) if caption is not None else None
            if image is None:
                failed.append(row)
                continue
            good.append(row)
            images.append(image)
            captions.append(caption)
        batch = _Batch(ordinal, good, failed, last)
        if good and "image" in self.towers:
            batch.images = torch.stack(images)
        if good and "text" in self.towers:
            batch.texts = self.tokenize(captions)
        return batch

    def _image(self, shard: Any, row: int) -> torch.Tensor | None:
        # Decoded for the text tower too: which samples count as failed must not depend on the tower.
        try:
            return self.decode(shard.read_image(row))
        except UserError:
            raise
        except ValueError:
            return None


def _tasks(
    requests: Iterable[tuple[int, np.ndarray]], batch_size: int
) -> Iterator[tuple[int, list[int], bool]]:
    for ordinal, rows in requests:
        for start in range(0, max(len(rows), 1), batch_size):
            yield ordinal, rows[start : start + batch_size].tolist(), start + batch_size >= len(rows)


def _encode(encoder: Encoder, batch: _Batch, device: torch.device) -> dict[str, torch.Tensor]:
    """Unit features by tower, still on the device: the host waits once a shard, not once a batch."""
    dtype = AUTOCAST[encoder.precision]
    outputs = {}
    with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype is not None):
        if batch.images is not None:
            images = encoder.prepare(batch.images.to(device, non_blocking=True))
            outputs["image"] = normalize(encoder.model.encode_image(images).float(), dim=-1)
        if batch.texts is not None:
            texts = batch.texts.to(device, non_blocking=True)
            outputs["text"] = normalize(encoder.model.encode_text(texts).float(), dim=-1)
    return outputs


def _gather(
    encoder: Encoder, parts: Sequence[_Batch], outputs: Sequence[dict[str, torch.Tensor]]
) -> ShardFeatures:
    features = {}
    for tower in encoder.towers:
        blocks = [output[tower] for output in outputs if tower in output]
        features[tower] = torch.cat(blocks).cpu().numpy() if blocks else np.empty((0, 0), np.float32)
    rows = np.array([row for part in parts for row in part.rows], np.int64)
    failed = np.array([row for part in parts for row in part.failed], np.int64)
    return ShardFeatures(parts[0].ordinal, rows, failed, features)


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
