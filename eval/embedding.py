"""Every stage's embeddings of images and texts, each input encoded once."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from eval.data.images import Batch, Sample, batches, content_hash
from eval.models import ScoredModel
from mcl_clip.clustering.threads import one_thread_each
from mcl_clip.errors import UserError


def embed_images(
    scored: ScoredModel,
    samples: Iterable[Sample],
    count: int,
    *,
    batch_size: int = 64,
    progress: bool = False,
    what: str = "images",
) -> Iterator[tuple[list[Tensor], Batch]]:
    """Batches of raw float32 embeddings [B, D_s] of every stage, on the model's device, with their batch.

    `count` samples are announced by the progress bar. Raises `UserError` on a broken image or embedding.
    """
    with tqdm(total=count, desc=what, unit="img", disable=not progress) as bar, _image_encoder(scored) as encode:
        for batch in batches(samples, scored.decoded, batch_size, scored.workers):
            yield [require_finite(stage, "images") for stage in encode(batch.pixels)], batch
            bar.update(len(batch.labels))


@contextlib.contextmanager
def _image_encoder(scored: ScoredModel) -> Iterator[Callable[[Tensor], list[Tensor]]]:
    """Pixels of a batch to raw embeddings of every stage.

    On a CPU each thread has a slice of the batch to itself: threads that share an operation spin where they wait for
    each other, and take the cores from those that decode.
    """

    def encode(pixels: Tensor) -> list[Tensor]:
        with torch.inference_mode(), scored.autocast():
            return stage_embeddings(scored.model, image=scored.to_device(pixels))

    if scored.device.type != "cpu":
        yield encode
        return
    with (
        one_thread_each() as count,
        ThreadPoolExecutor(count, "model", initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        yield lambda pixels: [torch.cat(stage) for stage in zip(*pool.map(encode, pixels.chunk(count)), strict=True)]


def embed_all_images(
    scored: ScoredModel, samples: Iterable[Sample], count: int, **options: Any
) -> tuple[list[Tensor], list[int | str], str]:
    """Raw float32 embeddings [count, D_s] of every stage, on the host, labels, and content hash.

    Options are those of `embed_images`.
    """
    parts, labels, digests = [], list[int | str](), list[bytes]()
    for stages, batch in embed_images(scored, samples, count, **options):
        parts.append([stage.cpu() for stage in stages])
        labels += batch.labels
        digests += batch.digests
    return [torch.cat(stage) for stage in zip(*parts, strict=True)], labels, content_hash(digests)


@torch.inference_mode()
def embed_texts(scored: ScoredModel, texts: Sequence[str], *, batch_size: int = 256) -> list[Tensor]:
    """Raw float32 embeddings [len(texts), D_s] of every stage."""
    parts = []
    with scored.autocast():
        for start in range(0, len(texts), batch_size):
            parts.append(stage_embeddings(scored.model, text=scored.tokens(texts[start : start + batch_size])))
    return [require_finite(torch.cat(stage), "texts") for stage in zip(*parts, strict=True)]


def stage_embeddings(model: Any, image: Tensor | None = None, text: Tensor | None = None) -> list[Tensor]:
    """Raw float32 embeddings [B, D_s] of every stage; of the model itself when it is no fusion."""
    if hasattr(model, "stage_embeddings"):
        embeddings = model.stage_embeddings(image=image, text=text)
    else:
        embeddings = [model.encode_image(image) if image is not None else model.encode_text(text)]
    return [embedding.float() for embedding in embeddings]


def require_finite(embeddings: Tensor, what: str) -> Tensor:
    """The embeddings; `UserError` when one is NaN or infinite, which would be scored as if it were an answer."""
    if not torch.isfinite(embeddings).all():
        raise UserError(
            f"the model gives NaN or infinite embeddings of {what}; score it with --precision fp32, or train it again"
        )
    return embeddings
