"""Source and a locked text tower -> the vector of every caption, the same in every epoch and stage."""

import hashlib
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from mcl_clip.artifacts import make_directory, read_json, sha256_file, sha256_json, write_json
from mcl_clip.clustering.threads import encode_in_order
from mcl_clip.loading.text_vectors import TextVectors, batches_of, captions_of, file_of, write_vectors
from mcl_clip.openclip.precision import get_autocast
from mcl_clip.shards.pool import part_of
from training.arrows.job import Job
from training.build import BuiltModel, lock
from training.reporting import log

BATCH = 256


def text_vectors(job: Job, stage: int, built: BuiltModel) -> TextVectors | None:
    """The vectors that a stage is trained with; None where its text tower is trained, draws, or --mcl-no-text-cache.

    Made where they do not stand: every rank fills whole source shards, so the bytes do not depend on the ranks, and a
    job that was killed goes on. Memory is one shard's captions and vectors.
    """
    settings, source = job.recipe.stages[stage], job.source
    if job.recipe.data.no_text_cache or not settings.lock_text or source.kind != "source":
        return None
    lock(built.model, settings)
    if any(parameter.requires_grad for parameter in text_state(built.model, parameters=True).values()):
        return None
    if any(isinstance(module, nn.modules.dropout._DropoutNd) and module.p for module in built.model.modules()):
        return None
    made_from = {
        "source": source.hash,
        "tower": _tower_hash(built),
        "precision": job.recipe.optimization.precision,
        "device": job.ranks.device.type,
    }
    directory = job.directory.root / "text_vectors" / sha256_json(made_from)[:16]
    manifest = directory / "manifest.json"
    if not job.ranks.share(manifest.exists):
        _fill(job, built, directory, made_from)
    told = job.ranks.share(lambda: {name: read_json(manifest)[name] for name in ("dtype", "width")})
    return TextVectors(directory, told["width"], getattr(torch, told["dtype"]))


class WithVectors(nn.Module):
    """A model whose captions come as the vectors that its locked text tower gives; called as (images, vectors)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor, vectors: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.model(images) | {"text_features": vectors}


def with_vectors(model: nn.Module, loader: Any) -> nn.Module:
    """`model` as it is called with what the loader gives."""
    return WithVectors(model) if loader.text_vectors else model


def text_state(model: Any, parameters: bool = False) -> dict[str, torch.Tensor]:
    """All of a model but its image tower, logit scale and bias."""
    state = dict(model.named_parameters()) if parameters else model.state_dict()
    own = ("visual.", "logit_scale", "logit_bias")
    return {name: tensor for name, tensor in state.items() if not name.startswith(own)}


def _fill(job: Job, built: BuiltModel, directory: Any, made_from: dict[str, str]) -> None:
    source, ranks = job.source, job.ranks
    make_directory(directory)
    if ranks.is_first:
        log.info(f"vectors of all captions are computed once, into {directory} (--lock-text)")
    begun = time.monotonic()
    tower = _Tower(built.model, job.recipe.optimization.precision)
    mine = part_of(range(source.num_shards), ranks.rank, ranks.world_size)
    count, hashes = 0, {}
    was_training = built.model.training
    built.model.eval()
    for shard in tqdm(mine, "captions", unit="shard", disable=None if ranks.is_first else True, leave=False):
        path = file_of(directory, shard)
        captions = captions_of(source, shard)
        if not path.exists():
            texts = [_Texts(built.tokenizer(batch)) for batch in batches_of(captions, BATCH)]
            write_vectors(path, captions, [part["text"] for _, part in encode_in_order(tower, texts)])  # type: ignore[type-var, arg-type]
        count += len(captions)
        hashes[str(path.relative_to(directory))] = sha256_file(path)
    one = tower.encode(None, built.tokenizer(["a"]))["text"]
    kind = {"dtype": str(one.dtype).removeprefix("torch."), "width": one.shape[1]}
    built.model.train(was_training)
    parts: list[Any] = ranks.gather([count, hashes])
    if ranks.is_first:
        total, seconds = sum(part[0] for part in parts), time.monotonic() - begun
        files = {name: digest for part in parts for name, digest in part[1].items()}
        write_json(
            directory / "manifest.json",
            {"made_from": made_from, **kind, "captions": total, "seconds": round(seconds, 1), "files": files},
        )
        size = sum((directory / name).stat().st_size for name in files) / 2**20
        log.info(f"vectors of {total:,} captions: {seconds:.0f} s, {size:,.0f} MiB")
    ranks.barrier()


@dataclass(frozen=True)
class _Texts:
    texts: torch.Tensor | None
    images: None = None


@dataclass(frozen=True)
class _Tower:
    """A text tower as training runs it."""

    model: Any
    precision: str

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def encode(self, images: None, texts: torch.Tensor) -> dict[str, torch.Tensor]:
        with torch.inference_mode(), get_autocast(self.precision, device_type=self.device.type)():
            return {"text": self.model.encode_text(texts.to(self.device), normalize=True)}


def _tower_hash(built: BuiltModel) -> str:
    digest = hashlib.sha256(sha256_json(built.configuration["model_cfg"]["text_cfg"]).encode())
    for name, tensor in sorted(text_state(built.model).items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()).data)
    return digest.hexdigest()
