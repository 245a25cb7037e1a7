"""A bounded sample of a data set's pairs, embedded by every stage, and the weights fitted on it."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from mcl_clip.artifacts import atomic_path, read_json, write_json
from mcl_clip.clustering.clusters import Clusters
from mcl_clip.clustering.encoder import Encoder
from mcl_clip.clustering.features import embed
from mcl_clip.clustering.kmeans import assign
from mcl_clip.errors import UserError
from mcl_clip.fusion.fit import fit_weights, is_idle, num_with_negatives
from mcl_clip.fusion.fit_sample import choose_pairs, choose_rows
from mcl_clip.fusion.fused_model import FusedCLIP
from mcl_clip.loading.augment import eval_transform
from mcl_clip.loading.normalize import Normalize
from mcl_clip.shards.manifest import Manifest
from mcl_clip.shards.pool import part_of
from mcl_clip.world import World, appears

TOWERS = ("image", "text")


def fit_fusion(
    model: FusedCLIP,
    data: Manifest,
    work: Path,
    *,
    named: str,
    made_from: Mapping[str, Any] | None = None,
    clusters: Sequence[Clusters | None] = (),
    pretrained: bool = True,
    pairs: int = 8192,
    seed: int = 0,
    batch_size: int = 256,
    workers: int = 0,
    world: World | None = None,
    progress: bool = False,
) -> FusedCLIP:
    """The stages of `model` under weights fitted on at most `pairs` pairs of `data`, chosen by hash of their keys.

    The pairs are those that `data` sets apart, else all of it: no stage may have been trained on them, and nothing may
    be scored on them. Negatives share the pseudo-label by `clusters`, those of the first, second, ... stage, where
    known; where too few pairs do, that of fewer stages; without any they come from anywhere. The card keeps under `fit`
    what was fitted on (`named`), how many pairs, the losses, and whether stage 0 is `pretrained` on data that nobody
    knows here. The ranks of a `world` all call this, embed a part of the shards each, and get the same model, whatever
    their number and the workers. Embeddings go to `work`, by which a call that was killed goes on when it is
    `made_from` the same; the caller deletes it. Raises `UserError` when the pairs do not suffice (see `fit_weights`).
    """
    world = world or World()
    identity = {**(made_from or {}), "data": data.hash, "pairs": pairs, "seed": seed, "batch_size": batch_size}
    world.share(lambda: _begin(work, identity))
    chosen = choose_pairs(data, pairs, seed)
    mine = part_of(list(chosen), world.rank, world.world_size)
    _embed(model, data, work, {shard: chosen[shard] for shard in mine}, seed, batch_size, workers, progress)
    world.barrier()
    record = world.share(lambda: _fit(model, data, work, list(chosen), named, clusters))
    record |= {"seed": seed, "stage_0_pretrained": pretrained}
    return FusedCLIP(model.stage_info, "fitted", record.pop("weights"), model.card | {"fit": record})


def told(model: FusedCLIP) -> str:
    """What a person should know of a fit, in one line."""
    weights, fit = model.weights or [], model.card["fit"]
    said = [
        f"weights {' : '.join(f'{weight:.3f}' for weight in weights)}, fitted on {fit['pairs']} pairs of {fit['on']}, "
        f"loss {fit['loss_equal_weights']:.4f} -> {fit['loss_fitted']:.4f}"
    ]
    if fit["pseudo_labels"] == 1:
        said.append("without clusters, or with one only, negatives came from anywhere, which tells less")
    elif unused := fit["clusters_unused"]:
        said.append(f"too few pairs share all clusters, so those of stage {', '.join(map(str, unused))} were not used")
    idle = [str(stage) for stage, weight in enumerate(weights) if is_idle(weight)]
    if idle:
        said.append(f"stage {', '.join(idle)} has almost no weight: mcl-fuse --select the others to save what it costs")
    return "; ".join(said)


def _begin(work: Path, identity: dict[str, Any]) -> None:
    """Make `work` this fit's; what another one left there is deleted."""
    claim = work / "fit.json"
    if not claim.is_file() or read_json(claim) != identity:
        shutil.rmtree(work, ignore_errors=True)
        write_json(claim, identity)


def _embed(
    model: FusedCLIP,
    data: Manifest,
    work: Path,
    chosen: Mapping[int, int],
    seed: int,
    batch_size: int,
    workers: int,
    progress: bool,
) -> None:
    """Write unit embeddings and captions of the chosen pairs, a file a shard, but for those that are there."""
    missing = [shard for shard in chosen if not _file(work, shard).exists()]
    if not missing:
        return
    stages = FusedCLIP(model.stage_info, "mean-cosine")
    device = next(stages.parameters()).device
    transform = eval_transform(stages.visual.preprocess_cfg)
    prepare = Normalize(transform.mean, transform.std).to(device)
    encoder = Encoder(stages, transform, prepare, stages.tokenizer, TOWERS)
    requests = ((shard, choose_rows(data, shard, chosen[shard], seed)) for shard in missing)
    parts = embed(encoder, data, requests, batch_size=batch_size, workers=workers)
    for part in tqdm(parts, "fit pairs", len(missing), unit="shard", disable=not progress):
        shard = data.open_shard(part.ordinal)
        captions = [shard.read_caption(int(row)) or "" for row in part.rows]
        with atomic_path(_file(work, part.ordinal)) as temporary:
            save_file(part.features, temporary, metadata={"captions": json.dumps(captions)})


def _fit(
    model: FusedCLIP, data: Manifest, work: Path, shards: list[int], named: str, clusters: Sequence[Clusters | None]
) -> dict[str, Any]:
    """The weights, and what the card keeps of them."""
    captions: list[str] = []
    parts: dict[str, list[np.ndarray]] = {tower: [] for tower in TOWERS}
    for shard in sorted(shards):
        with safe_open(appears(_file(work, shard)), "numpy") as file:
            captions += json.loads(file.metadata()["captions"])
            for tower, part in parts.items():
                part.append(file.get_tensor(tower))
    if not captions:
        raise UserError(f"{named} has no pair that can be read; check it with mcl-shards verify")
    towers = {tower: _by_stage(part, model.dims) for tower, part in parts.items()}
    known = {stage: found for stage, found in enumerate(clusters[: model.num_stages - 1]) if found}
    unused: list[int] = []
    labels = _labels(towers, known, len(captions))
    while known and num_with_negatives(captions, labels.tolist()) <= 2 * model.num_stages:
        unused.insert(0, known.popitem()[0])
        labels = _labels(towers, known, len(captions))
    fit = fit_weights(towers["image"], towers["text"], captions, labels.tolist())
    return {
        "weights": list(fit.weights),
        "on": named,
        "data": data.hash,
        "set_apart": data.apart and {"samples": data.num_apart, "by": str(data.apart)},
        "pairs": fit.pairs,
        "pseudo_labels": fit.labels,
        "clusters_unused": unused,
        "loss_equal_weights": fit.loss_before,
        "loss_fitted": fit.loss_after,
        "loss_alone": list(fit.loss_alone),
        "best_stage": int(np.argmin(fit.loss_alone)),
    }


def _file(work: Path, shard: int) -> Path:
    return work / f"{shard:08d}.safetensors"


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
