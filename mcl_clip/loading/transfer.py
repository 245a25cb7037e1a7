"""Pieces of micro-batches on their way to the device, a step ahead of the one that is computed."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from mcl_clip.loading.dataset import Samples
from mcl_clip.loading.micro_batch import MicroBatch


class Transfer:
    """On CUDA everything is copied on a stream of its own, which the computing stream waits for step by step."""

    def __init__(self, device: torch.device):
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def join(self, pieces: Iterable[Samples], count: int, *, alone: bool) -> Samples:
        """One micro-batch of `count` samples, with images and texts on the device.

        A piece's memory is free once it is copied; on a host a single one is taken as it is where the step is `alone`
        in it. Rows that are missing hold an image of the micro-batch's own, which does least to a BatchNorm.
        """
        images = texts = torch.empty(0)
        vectors = None
        keys: list[str] = []
        missing: list[int] = []
        for piece in pieces:
            start, stop = len(keys), len(keys) + len(piece.keys)
            if alone and stop - start == count and self.device.type == "cpu":
                images, texts, vectors = piece.images, piece.texts, piece.vectors
            else:
                if not start:
                    images, texts = (self._room(count, part) for part in (piece.images, piece.texts))
                    vectors = None if piece.vectors is None else self._room(count, piece.vectors)
                images[start:stop].copy_(piece.images, non_blocking=True)
                texts[start:stop].copy_(piece.texts, non_blocking=True)
                if vectors is not None and piece.vectors is not None:
                    vectors[start:stop].copy_(piece.vectors, non_blocking=True)
            keys += piece.keys
            missing += [start + row for row in piece.missing]
        present = next((row for row in range(count) if row not in missing), None)
        for row in missing:
            images[row] = 0 if present is None else images[present]
        return Samples(images, texts, keys, [], 0, missing, None, vectors)

    def ahead(self, steps: Iterator[list[MicroBatch]]) -> Iterator[list[MicroBatch]]:
        """Every step as it comes; on CUDA the next one has been read, and its copies begun, by then."""
        if self._stream is None:
            yield from steps
            return
        ready = self._next(steps)
        while ready is not None:
            coming = self._next(steps)
            yield self._arrived(*ready)
            ready = coming

    def _next(self, steps: Iterator[list[MicroBatch]]) -> tuple[list[MicroBatch], torch.cuda.Event] | None:
        assert self._stream is not None
        with torch.cuda.stream(self._stream):
            step = next(steps, None)
            return None if step is None else (step, self._stream.record_event())

    def _arrived(self, step: list[MicroBatch], copied: torch.cuda.Event) -> list[MicroBatch]:
        """What is computed from now on finds the step there, and its memory is not taken before."""
        computing = torch.cuda.current_stream(self.device)
        computing.wait_event(copied)
        for batch in step:
            for tensor in (batch.images, batch.texts, batch.vectors):
                if tensor is not None:
                    tensor.record_stream(computing)
        return step

    def _room(self, count: int, part: Tensor) -> Tensor:
        return torch.empty_strided((count, *part.shape[1:]), part.stride(), dtype=part.dtype, device=self.device)
