"""A map-style data set over the plan: asked for positions of a global batch, it gives their samples."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from mcl_clip import seeds
from mcl_clip.errors import UserError
from mcl_clip.loading.augment import WORDS, Transform
from mcl_clip.loading.decode import DecodeError
from mcl_clip.loading.text_vectors import TextVectors
from mcl_clip.plan.epochs import EpochPlans
from mcl_clip.plan.permutation import mix
from mcl_clip.shards.manifest import Manifest
from mcl_clip.shards.reader import ShardRows

MAX_OPEN_SHARDS = 256
CAPTION = WORDS  # the random word of a sample behind those of its image
MOST_TRIED = 16  # substitutes of one sample: where these are unreadable too, more would be
Tokenizer = Callable[[list[str]], torch.Tensor]


class Request(NamedTuple):
    """Positions [start, start + b) of global batch t of a pass over the data; shard, ordinal: int32 [b]."""

    epoch: int
    t: int
    start: int
    shard: np.ndarray
    ordinal: np.ndarray


class Samples(NamedTuple):
    """Samples of a request as a worker gives them, or of a micro-batch.

    images [b, *shape], shape and dtype of the transform; texts int64 [b, context], of context 0 without a tokenizer;
    keys "source shard/key", of what was delivered; faults: (key of the unreadable sample, why); slow: images the fast
    decoder did not take; missing: which of the b are no sample (nor a picture), because none could be read in its
    stead; error: what ends the run, for the user; vectors [b, D]: of the captions, where they are known.
    """

    images: torch.Tensor
    texts: torch.Tensor
    keys: list[str]
    faults: list[tuple[str, str]]
    slow: int
    missing: list[int]
    error: str | None
    vectors: torch.Tensor | None = None


class ShardDataset(Dataset):
    """Samples of a source, of buckets or of index-only buckets: they differ in nothing but their manifest.

    Keeps no state but files opened for reading. What it gives is a pure function of the request. Without a tokenizer
    no captions are read.
    """

    def __init__(
        self,
        manifest: Manifest,
        plans: EpochPlans,
        transform: Transform,
        tokenizer: Tokenizer | None,
        caption_probs: Sequence[float] | None = None,
        text_vectors: TextVectors | None = None,
    ):
        self.manifest, self.plans, self.caption_probs = manifest, plans, caption_probs
        self.transform, self.tokenizer, self.text_vectors = transform, tokenizer, text_vectors
        self._open = _opener(manifest)

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name != "_open"}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._open = _opener(self.manifest)

    def __getitem__(self, request: Request) -> Samples:
        count = len(request.shard)
        images = _room(count, self.transform.shape, self.transform.dtype)
        captions: list[str] = []
        keys: list[str] = []
        faults: list[tuple[str, str]] = []
        given: list[tuple[int, str] | None] = []
        missing: list[int] = []
        slow = 0
        try:
            words = self._words(request, request.shard, request.ordinal)
            self._expect(request)
            for index, sample in enumerate(zip(request.shard.tolist(), request.ordinal.tolist(), strict=True)):
                try:
                    image, caption, fast = self._read(*sample, words[index])
                except DecodeError as error:
                    faults.append((self._key(*sample), str(error)))
                    substitute = self._substitute(request, request.start + index)
                    if substitute is None:
                        missing.append(index)
                        captions.append("")
                        given.append(None)
                        keys.append(self._key(*sample))
                        continue
                    sample, (image, caption, fast) = substitute
                images[index] = image
                captions.append(caption)
                keys.append(self._key(*sample))
                given.append((self._open(sample[0]).source_ordinal(sample[1]), caption))
                slow += not fast
            vectors = self.text_vectors.of(given) if self.text_vectors else None
        except UserError as error:  # a worker's exception would reach the user as a traceback
            return Samples(images[:0], torch.empty(0, 0, dtype=torch.int64), [], faults, slow, [], str(error))
        texts = torch.empty(count, 0) if self.tokenizer is None else self.tokenizer(captions)
        return Samples(images, texts.to(torch.int64), keys, faults, slow, missing, None, vectors)

    def _read(self, shard: int, ordinal: int, words: np.ndarray) -> tuple[torch.Tensor, str, bool]:
        rows: ShardRows = self._open(shard)
        caption: str | None = ""
        if self.tokenizer is not None:
            caption = rows.draw_caption(ordinal, int(words[CAPTION]), self.caption_probs)
        if caption is None:
            raise DecodeError("it has no caption")
        image, fast = self.transform(rows.read_image(ordinal), words[:WORDS])
        return image, caption, fast

    def _expect(self, request: Request) -> None:
        """Have what is remote of a request fetched together."""
        if self.manifest.tars.ranged:
            samples = zip(request.shard.tolist(), request.ordinal.tolist(), strict=True)
            captions = self.tokenizer is not None
            self.manifest.tars.expect(
                [each for shard, row in samples for each in self._open(shard).ranges(row, captions=captions)]
            )

    def _substitute(self, request: Request, position: int):
        """Another sample of the segment's label from outside the global batch, the same in any world; or None."""
        plan = self.plans[request.epoch]
        rivals, candidates = plan.substitutes(request.t, position)
        if not any(self._is_unreadable(*plan.sample(request.t, rival)) for rival in rivals):
            for shard, ordinal in islice(candidates, MOST_TRIED):
                words = self._words(request, np.array([shard]), np.array([ordinal]))[0]
                try:
                    return (shard, ordinal), self._read(shard, ordinal, words)
                except DecodeError:
                    continue
        return None

    def _is_unreadable(self, shard: int, ordinal: int) -> bool:
        try:
            self._read(shard, ordinal, np.zeros(WORDS + 1, np.uint64))
        except DecodeError:
            return True
        return False

    def _key(self, shard: int, ordinal: int) -> str:
        return "/".join(self._open(shard).source_of(ordinal))

    def _words(self, request: Request, shard: np.ndarray, ordinal: np.ndarray) -> np.ndarray:
        """uint64 [b, WORDS + 1] random words that depend on (seed, stage, epoch, sample) only.

        And on the global batch for samples that an epoch repeats: each time with another crop and caption.
        """
        again = (self.manifest.shard_repeats[shard] > 1) * (np.int64(request.t + 1) << 32)
        return sample_words(self.plans.seed, self.plans.stage, request.epoch, shard, ordinal + again)


def sample_words(seed: int, stage: int, epoch: int, shard: np.ndarray, ordinal: np.ndarray) -> np.ndarray:
    """uint64 [b, WORDS + 1] random words of samples (shard, ordinal), a pure function of the arguments."""
    key = mix(mix(seeds.words(1, seed, stage, epoch) + shard.astype(np.uint64)) + ordinal.astype(np.uint64))
    return mix(mix(key)[:, None] + np.arange(WORDS + 1, dtype=np.uint64))


def _opener(manifest):
    return lru_cache(MAX_OPEN_SHARDS)(manifest.open_shard)


def _room(count: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """An empty [count, *shape]; a picture's pixels lie interleaved there, as it was decoded and resized."""
    if dtype == torch.uint8 and len(shape) == 3:
        return _shared_empty((count, *shape[1:], shape[0]), dtype).permute(0, 3, 1, 2)
    return _shared_empty((count, *shape), dtype)


def _shared_empty(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """An empty tensor; in a worker process in shared memory, so that handing it over copies nothing."""
    if get_worker_info() is None:
        return torch.empty(tuple(shape), dtype=dtype)
    count = int(np.prod(shape))
    storage = torch.UntypedStorage._new_shared(count * dtype.itemsize)
    return torch.empty(0, dtype=dtype).set_(storage, 0, tuple(shape))  # type: ignore[call-overload]
