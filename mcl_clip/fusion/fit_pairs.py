"""A bounded sample of a data set's pairs, embedded by every stage: what weights are fitted on."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from mcl_clip.clustering.clusters import Clusters
from mcl_clip.clustering.encoder import Encoder
from mcl_clip.clustering.features import ShardFeatures, embed
from mcl_clip.clustering.kmeans import assign
from mcl_clip.clustering.reservoir import choose, hash_limit, key_hashes, smallest
from mcl_clip.errors import UserError
from mcl_clip.fusion.fit import Fit, fit_weights, is_idle
from mcl_clip.fusion.fused_model import FusedCLIP
from mcl_clip.loading.augment import eval_transform
from mcl_clip.loading.normalize import Normalize
from mcl_clip.shards.manifest import Manifest


def fit_fusion(
    model: FusedCLIP,
    data: Manifest,
    *,
    named: str,
    clusters: Sequence[Clusters | None] = (),
    pairs: int = 8192,
    seed: int = 0,
    batch_size: int = 256,
    workers: int = 0,
    progress: bool = False,
) -> FusedCLIP:
    """The stages of `model` under weights fitted on at most `pairs` pairs of `data`, chosen by hash of their keys.

    No stage may have been trained on `data`, and nothing may be scored on it. Negatives share the pseudo-label by
    `clusters`, those of the first, second, ... stage, where known; without any they come from anywhere. The card keeps
    under `fit` what was fitted on (`named`), how many pairs, and the loss before and after. The same model, data and
    seed give the same weights, whatever the workers. Raises `UserError` when the pairs do not suffice (see
    `fit_weights`).
    """
    stages = FusedCLIP(model.stage_info, "mean-cosine")
    device = next(stages.parameters()).device
    transform = eval_transform(stages.visual.preprocess_cfg)
    prepare = Normalize(transform.mean, transform.std).to(device)
    encoder = Encoder(stages, transform, prepare, stages.tokenizer, ("image", "text"))
    requests = _sample(data, pairs, seed)
    embedded = embed(encoder, data, requests, batch_size=batch_size, workers=workers)
    parts = list(tqdm(embedded, "fit pairs", len(requests), unit="shard", disable=not progress))
    captions = [caption for part in parts for caption in _captions(data, part)]
    if not captions:
        raise UserError(f"--fit-on {named} has no pair that can be read; check it with mcl-shards verify")
    towers = {tower: _by_stage([part.features[tower] for part in parts], model.dims) for tower in ("image", "text")}
    known = {stage: found for stage, found in enumerate(clusters[: model.num_stages - 1]) if found}
    labels = _labels(towers, known, len(captions))
    fit = fit_weights(towers["image"], towers["text"], captions, labels.tolist())
    return FusedCLIP(model.stage_info, "fitted", fit.weights, model.card | {"fit": _record(fit, named, data, seed)})


def told(model: FusedCLIP) -> str:
    """What a person should know of a fit, in one line."""
    weights, fit = model.weights or [], model.card["fit"]
    said = [
        f"weights {' : '.join(f'{weight:.3f}' for weight in weights)}, fitted on {fit['pairs']} pairs of {fit['on']}, "
        f"loss {fit['loss_equal_weights']:.4f} -> {fit['loss_fitted']:.4f}"
    ]
    if fit["pseudo_labels"] == 1:
        said.append("without clusters, or with one only, negatives came from anywhere, which tells less")
    idle = [str(stage) for stage, weight in enumerate(weights) if is_idle(weight)]
    if idle:
        said.append(f"stage {', '.join(idle)} has almost no weight: mcl-fuse --select the others to save what it costs")
    return "; ".join(said)


def _sample(data: Manifest, pairs: int, seed: int) -> list[tuple[int, np.ndarray]]:
    """(shard ordinal, ascending rows) of the chosen pairs: those of the least hashes of (seed, shard, key)."""
    limit = hash_limit(data.num_samples, pairs)
    rows: list[np.ndarray] = []
    hashes: list[np.ndarray] = []
    for ordinal, name in enumerate(data.shard_names):
        of_shard = key_hashes(name, data.open_shard(ordinal).keys, seed)
        rows.append(choose(of_shard, limit))
        hashes.append(of_shard[rows[-1]])
    kept = np.zeros(sum(map(len, rows)), bool)
    kept[smallest(np.concatenate(hashes), pairs)] = True
    chosen = np.split(kept, np.cumsum([len(each) for each in rows])[:-1])
    return [(ordinal, each[keep]) for ordinal, (each, keep) in enumerate(zip(rows, chosen, strict=True)) if keep.any()]


def _captions(data: Manifest, part: ShardFeatures) -> list[str]:
    shard = data.open_shard(part.ordinal)
    return [shard.read_caption(int(row)) or "" for row in part.rows]


def _by_stage(parts: list[np.ndarray], dims: list[int]) -> list[torch.Tensor]:
    """Unit embeddings of every stage from those of mean-cosine, which are these side by side."""
    joined = torch.from_numpy(np.concatenate([part for part in parts if len(part)]))
    return [F.normalize(stage, dim=1) for stage in joined.split(dims, dim=1)]


def _labels(towers: dict[str, list[torch.Tensor]], clusters: dict[int, Clusters], count: int) -> np.ndarray:
    """Numbers of the pairs' pseudo-labels, by the nearest centroids of every stage in `clusters`."""
    paths = [np.zeros(count, np.int64)]
    for stage, found in clusters.items():
        for tower, centroids in sorted(found.centroids.items()):
            features = towers[tower][stage].numpy()
            if features.shape[1] != centroids.shape[1]:
                raise UserError(f"{found.directory} are not clusters of stage {stage}: their sizes differ")
            paths.append(assign(features, centroids)[0].astype(np.int64))
    return np.unique(np.stack(paths, 1), axis=0, return_inverse=True)[1].reshape(-1)


def _record(fit: Fit, named: str, data: Manifest, seed: int) -> dict[str, Any]:
    return {
        "on": named,
        "data": data.hash,
        "pairs": fit.pairs,
        "pseudo_labels": fit.labels,
        "seed": seed,
        "loss_equal_weights": fit.loss_before,
        "loss_fitted": fit.loss_after,
    }
