"""One pass over the images of a classification set: what every row of the model predicts, on one rank or several."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from eval.data.classification_set import ClassificationSet
from eval.embedding import embed_images
from eval.models import ScoredModel
from eval.rows import row_embedding, rows_of
from mcl_clip.errors import UserError

DIGEST_BYTES = 32


@dataclass(frozen=True)
class Predictions:
    """What is counted in one pass; rows are those of the model.

    images [classes]: of each class; right [rows, classes]: those that a row gives their class. top5 [rows]: images
    whose class is among the best five. confusion [rows, classes, classes]: by true and predicted class; empty unless
    asked for. digests uint8 [images, 32] name what was scored.
    """

    right: np.ndarray
    images: np.ndarray
    top5: np.ndarray
    confusion: np.ndarray
    digests: np.ndarray


def sum_over_ranks(found: Predictions, device: torch.device, world_size: int) -> Predictions:
    """The predictions on all images, on every rank, from each rank's on its share."""
    if world_size == 1:
        return found
    sums = []
    for values in (found.right, found.images, found.top5, found.confusion, found.digests):
        on_device = torch.from_numpy(values).to(device)
        if on_device.numel():
            dist.all_reduce(on_device)
        sums.append(on_device.cpu().numpy())
    return Predictions(*sums)


@torch.inference_mode()
def predict(
    scored: ScoredModel,
    data: ClassificationSet,
    weights: dict[str, torch.Tensor],
    *,
    batch_size: int = 64,
    confusion: bool = False,
    rank: int = 0,
    world_size: int = 1,
    progress: bool = False,
) -> Predictions:
    """Predictions of this rank's share of the images, in one pass; `weights` [D, classes] by row."""
    rows, num_classes = rows_of(scored.model), len(data.classnames)
    right = np.zeros((len(rows), num_classes), np.int64)
    images = np.zeros(num_classes, np.int64)
    top5 = np.zeros(len(rows), np.int64)
    counts = np.zeros((len(rows), num_classes, num_classes) if confusion else (len(rows), 0, 0), np.int64)
    mine = range(rank, data.size, world_size)
    digests = np.zeros((data.size, DIGEST_BYTES), np.uint8)
    done = 0
    samples = data.share(rank, world_size)
    for stages, batch in embed_images(scored, samples, len(mine), batch_size=batch_size, progress=progress):
        labels = np.array(batch.labels, np.int64)
        if outside := [label for label in batch.labels if not 0 <= int(label) < num_classes]:
            raise UserError(f"{data.name} has an image of class {outside[0]}, but {num_classes} class names, from 0 on")
        for index, row in enumerate(rows):
            logits = row_embedding(scored.model, row, stages) @ weights[row.name]
            best = logits.topk(min(5, num_classes)).indices.cpu().numpy()
            right[index] += np.bincount(labels[best[:, 0] == labels], minlength=num_classes)
            if confusion:
                np.add.at(counts[index], (labels, best[:, 0]), 1)
            top5[index] += (best == labels[:, None]).any(1).sum()
        images += np.bincount(labels, minlength=num_classes)
        places = mine[done : done + len(labels)]
        digests[places] = [np.frombuffer(digest, np.uint8) for digest in batch.digests]
        done += len(labels)
    return Predictions(right, images, top5, counts, digests)
