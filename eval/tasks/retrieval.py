"""Retrieval of captions by image and of images by caption: recall at 1, 5 and 10, both ways."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eval.data.retrieval_set import RetrievalSet
from eval.embedding import embed_all_images, embed_texts
from eval.intervals import bootstrap_ratio, wilson
from eval.models import ScoredModel
from eval.rows import row_embedding, rows_of
from eval.scores import result
from eval.tasks.ranks import Own, ranks, recalls

TASK = "zeroshot_retrieval"
KS = (1, 5, 10)


@torch.inference_mode()
def evaluate(
    scored: ScoredModel, data: RetrievalSet, *, batch_size: int = 64, progress: bool = False
) -> list[dict[str, Any]]:
    """Score every row of the model on `data` (see `open_captions`), each image and each caption encoded once.

    Metrics by CLIP_benchmark's names, as fractions: text_retrieval_recall@k, images that find one of their captions
    among the k most similar ones; image_retrieval_recall@k, captions that find their image; also n_images, n_captions.
    A tie counts against, but a caption is no rival of one of the same words. `intervals` holds the 95 % interval of
    each (Wilson; for captions a bootstrap over images, whose captions are drawn together).
    """
    texts = Captions.of(data.captions)
    embedded = [stage.cpu() for stage in embed_texts(scored, texts.unique)]
    images, _, content = embed_all_images(
        scored, data.samples(), len(data.captions), batch_size=batch_size, progress=progress
    )
    record = scored.record() | {"data_revision": data.revision or content}
    results = []
    for row in rows_of(scored.model):
        by_image, by_caption = retrieve(
            row_embedding(scored.model, row, images), row_embedding(scored.model, row, embedded), texts
        )
        metrics, intervals = metrics_of(by_image.numpy(), by_caption.numpy(), texts.image.numpy())
        results.append(
            result(scored, row.name, dataset=data.name, task=TASK, metrics=metrics, intervals=intervals, record=record)
        )
    return results


@dataclass(frozen=True)
class Captions:
    """Captions of n images, each wording once: caption c belongs to image `image[c]` and reads `unique[text[c]]`."""

    unique: list[str]
    image: Tensor
    text: Tensor

    @classmethod
    def of(cls, captions: Sequence[Sequence[str]]) -> "Captions":
        """From the captions of every image."""
        places = {text: place for place, text in enumerate(dict.fromkeys(text for each in captions for text in each))}
        image = [number for number, each in enumerate(captions) for _ in each]
        text = [places[text] for each in captions for text in each]
        return cls(list(places), torch.tensor(image), torch.tensor(text))

    def own_wordings(self) -> Own:
        """Of every image its wordings, each once."""
        pairs = torch.unique(torch.stack([self.image, self.text]), dim=1)
        return Own(pairs[0], pairs[1])


def retrieve(images: Tensor, texts: Tensor, captions: Captions) -> tuple[Tensor, Tensor]:
    """Hits at KS of every image among the captions [n, 3], and of every caption among the images [m, 3], bool.

    `images` [n, D] and `texts` [wordings, D] are unit embeddings on the host.
    """
    copies = torch.bincount(captions.text, minlength=len(texts))
    by_image = ranks(images, texts, captions.own_wordings(), copies=copies)
    own_image = Own(torch.arange(len(captions.image)), captions.image)
    by_caption = ranks(texts, images, own_image, rows=captions.text)
    return recalls(by_image, KS), recalls(by_caption, KS)


def metrics_of(
    by_image: np.ndarray, by_caption: np.ndarray, owner: np.ndarray
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(metrics, intervals) of `evaluate` from hits at KS; `owner` is the image of every caption."""
    metrics: dict[str, Any] = {}
    intervals: dict[str, Any] = {}
    count = np.bincount(owner, minlength=len(by_image))
    for column, k in enumerate(KS):
        texts, images = f"text_retrieval_recall@{k}", f"image_retrieval_recall@{k}"
        metrics[images], metrics[texts] = float(by_caption[:, column].mean()), float(by_image[:, column].mean())
        hits = np.bincount(owner, weights=by_caption[:, column], minlength=len(by_image))
        intervals[images] = bootstrap_ratio(hits, count)
        intervals[texts] = wilson(metrics[texts], len(by_image))
    return metrics | {"n_images": len(by_image), "n_captions": len(by_caption)}, intervals
