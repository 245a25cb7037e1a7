"""What a locked text tower makes of every caption, kept by source shard: computed once, read with the batch."""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mcl_clip.artifacts import atomic_path
from mcl_clip.errors import UserError
from mcl_clip.numbered import find_numbered
from mcl_clip.seeds import number_of
from mcl_clip.shards.manifest import Manifest

MAX_OPEN = 256
AGAIN = "delete its directory and run again, or pass --mcl-no-text-cache"


def file_of(directory: Path, shard: int) -> Path:
    """The file of a source shard's captions, or where it is written."""
    return find_numbered(directory, shard, ".safetensors")


def captions_of(source: Manifest, shard: int) -> list[str]:
    """All captions that samples of a source shard may be trained with, each once, in the order of their hashes."""
    rows = source.open_shard(shard)
    captions = {text for row in range(len(rows)) for texts in rows.captions(row) for text in texts}
    return sorted(captions, key=number_of)


def write_vectors(path: Path, captions: Sequence[str], vectors: Iterable[torch.Tensor]) -> None:
    """One shard's file, atomically: hashes [n] and the vectors' bytes [n, D x itemsize] in the order of `captions`."""
    hashes = np.array([number_of(caption) for caption in captions], np.uint64)
    if len(np.unique(hashes)) != len(hashes):
        raise UserError(f"{path}: two captions have one hash; pass --mcl-no-text-cache")
    parts = [part.cpu().contiguous().view(torch.uint8).numpy() for part in vectors]
    bytes_ = np.concatenate(parts) if parts else np.empty((0, 0), np.uint8)
    with atomic_path(path) as temporary:
        save_file({"hashes": hashes, "vectors": bytes_}, temporary)


class TextVectors:
    """The vectors in a directory, [width] of `dtype` each. Pickled copies open their own files, MAX_OPEN at most."""

    def __init__(self, directory: Path, width: int, dtype: torch.dtype):
        self.directory, self.width, self.dtype = directory, width, dtype
        self._open = lru_cache(MAX_OPEN)(self._opened)

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name != "_open"}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._open = lru_cache(MAX_OPEN)(self._opened)

    def of(self, samples: Iterable[tuple[int, str] | None]) -> torch.Tensor:
        """[b, width] of (source shard, caption), zeros for None; `UserError` for a caption that is not there."""
        none = np.zeros(self.width * self.dtype.itemsize, np.uint8)
        found = np.stack([none if sample is None else self._row(*sample) for sample in samples])
        return torch.from_numpy(found).view(self.dtype)

    def _row(self, shard: int, caption: str) -> np.ndarray:
        hashes, vectors = self._open(shard)
        wanted = np.uint64(number_of(caption))
        place = int(np.searchsorted(hashes, wanted))
        if place == len(hashes) or hashes[place] != wanted:
            raise UserError(
                f"{self.directory} has no vector of the caption {caption[:60]!r} of source shard {shard}; {AGAIN}"
            )
        return vectors[place : place + 1][0]

    def _opened(self, shard: int):
        path = file_of(self.directory, shard)
        try:
            file = safe_open(path, "numpy")
            return file.get_tensor("hashes"), file.get_slice("vectors")
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} cannot be read ({error}); {AGAIN}") from None


def batches_of(captions: Sequence[str], size: int) -> Iterator[list[str]]:
    """Runs of `size` captions, the last as it comes: fixed by the shard alone, and so are the vectors' bits."""
    for start in range(0, len(captions), size):
        yield list(captions[start : start + size])
