"""Images on their way to the model: read and decoded by threads, a batch ahead of the model."""

import hashlib
import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from mcl_clip.errors import UserError
from mcl_clip.loading.decode import DecodeError

THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class Sample:
    """An image that is not read yet. `where` names it in messages; `label` is a class number or text."""

    read: Callable[[], bytes]
    where: str
    label: int | str = 0

    def image(self) -> Image.Image:
        """The RGB image; `UserError` when it does not open."""
        return decode(self.read(), self.where)


@dataclass(frozen=True)
class Batch:
    """Images [B, 3, H, W] as `ScoredModel.to_device` takes them and, in the same order, what is known of them."""

    pixels: Tensor
    labels: list[int | str]
    digests: list[bytes]


def file_sample(path: Path, label: int | str = 0) -> Sample:
    """The sample of an image file."""
    return Sample(path.read_bytes, str(path), label)


def batches(
    samples: Iterable[Sample], decoded: Callable[[bytes], Tensor], batch_size: int, workers: int = THREADS
) -> Iterator[Batch]:
    """Batches in the order of `samples`, the last one as it comes. Raises `UserError` naming a broken image.

    `decoded` makes an encoded image [3, H, W], and raises `DecodeError`; so many threads call it, each with one of its
    own.
    """
    samples = iter(samples)
    ahead: deque[tuple[list[Sample], list[Future]]] = deque()
    pool = ThreadPoolExecutor(workers, "image", initializer=torch.set_num_threads, initargs=(1,))

    def begin() -> None:
        if chunk := list(islice(samples, batch_size)):
            ahead.append((chunk, [pool.submit(_load, sample, decoded) for sample in chunk]))

    try:
        begin()
        begin()
        while ahead:
            chunk, futures = ahead.popleft()
            pixels, digests = zip(*(future.result() for future in futures), strict=True)
            begin()
            yield Batch(_stacked(pixels), [sample.label for sample in chunk], list(digests))
    finally:
        pool.shutdown(cancel_futures=True)


def content_hash(digests: Sequence[bytes]) -> str:
    """One name for what was scored, from the digests of all samples in order: sha256:HEX.

    A sample's digest covers its label and its encoded image, so a set has the same name in every layout.
    """
    return "sha256:" + hashlib.sha256(b"".join(digests)).hexdigest()


def decode(data: bytes, where: str) -> Image.Image:
    """RGB image of untrusted bytes; `UserError` naming `where`."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB")
    except Exception as error:  # a damaged file makes Pillow raise errors of a dozen kinds
        reason = "no known format" if isinstance(error, UnidentifiedImageError) else str(error)
        raise _broken(where, reason) from None


def digest_of(sample: Sample, data: bytes) -> bytes:
    """The digest of a sample whose encoded image is `data`."""
    return hashlib.sha256(f"{sample.label}\0".encode() + data).digest()


def read(sample: Sample) -> bytes:
    """The encoded image; `UserError` when it cannot be read."""
    try:
        return sample.read()
    except OSError as error:
        raise UserError(f"{sample.where} cannot be read ({error.strerror}); fetch it again") from None


def _load(sample: Sample, decoded: Callable[[bytes], Tensor]) -> tuple[Tensor, bytes]:
    data = read(sample)
    try:
        return decoded(data), digest_of(sample, data)
    except DecodeError as error:
        raise _broken(sample.where, str(error)) from None


def _stacked(images: tuple[Tensor, ...]) -> Tensor:
    """[B, 3, H, W]; decoded pixels stay interleaved, so that rows are copied whole."""
    if images[0].dtype != torch.uint8:
        return torch.stack(images)
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


def _broken(where: str, reason: str) -> UserError:
    return UserError(f"{where} does not open as an image ({reason}); fetch it again")
