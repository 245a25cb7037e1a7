"""What locked towers save: cost and pair accuracy of the same trained stages, one by one, fused and collapsed."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.emoji.assembled import assembled
from benchmarks.emoji.pretrained import Pretrained
from benchmarks.emoji.shards import pixels_of
from benchmarks.emoji.towers import normalized
from benchmarks.fused_inference import disk_ratio, measure, ratio
from benchmarks.study.models import Arm
from benchmarks.study.place import CHUNK
from eval.data.mmvp import read_pairs
from eval.tasks.pair_similarities import mean_of_groups, pair_similarities
from mcl_clip.artifacts import write_json
from mcl_clip.errors import UserError
from mcl_clip.fusion.combine import fuse_embeddings
from mcl_clip.fusion.fused_model import FusedCLIP

BATCH = 32
ROUNDS = 9
ONE, SEPARATE, FUSED, COLLAPSED = "last stage alone", "separate towers", "fused, shared blocks", "fused, collapsed"


def write_costs(path: Path, places: Iterable[Pretrained], arm: Arm, progress: bool = False) -> None:
    """`cost` of all places, as a list in `path`; `UserError` where the arm is not trained."""
    found = []
    for place in places:
        if not place.scored(arm).is_file() or not (place.trained / arm.models[-1].key).is_dir():
            raise UserError(
                f"no trained stages of {place.name}, seed {place.seed}: `confirm --towers 'real towers'` first"
            )
        found.append(cost(place, arm, progress))
    write_json(path, found)


@torch.inference_mode()
def cost(place: Pretrained, arm: Arm, progress: bool = False) -> dict[str, Any]:
    """{variant: pair accuracy (fraction), numbers of an embedding, cost of an image and of a text in units of one
    stage's, measured in turn with one thread}, and what the fused directory is in units of a stage's on disk.
    """
    torch.set_num_threads(1)
    stages = []
    for model in arm.models:
        tail = place.new_model(model)
        tail.load_state_dict(load_file(place.trained / model.key / "model.safetensors"))
        stages.append(assembled(tail, place.towers))
    disk, loaded = disk_ratio(FusedCLIP(stages))
    del loaded
    fused = FusedCLIP(stages)
    variants = {
        ONE: stages[-1].model,
        SEPARATE: _Separate([stage.model for stage in stages]),
        FUSED: fused,
        COLLAPSED: fused.collapse(),
    }
    pairs = read_pairs(place.data / "artists" / place.artist / "pairs")
    pixels = np.stack([pixels_of(path.read_bytes()) for pair in pairs for path in pair.images])
    images = normalized(torch.from_numpy(pixels))
    tokens = stages[0].tokenizer([text for pair in pairs for text in pair.statements])
    accuracies, sizes = {}, {}
    for name, model in variants.items():
        seen = torch.cat([model.encode_image(chunk, normalize=True) for chunk in images.split(CHUNK)])
        read = torch.cat([model.encode_text(chunk, normalize=True) for chunk in tokens.split(CHUNK)])
        by_type = mean_of_groups(pair_similarities(seen, read).pair_correct, [pair.type for pair in pairs])
        accuracies[name], sizes[name] = sum(by_type.values()) / len(by_type), seen.shape[1]
    image_seconds, text_seconds = (
        measure({name: _calls(model, side, batch) for name, model in variants.items()}, ROUNDS, "cpu", progress)
        for side, batch in (("image", images[:BATCH]), ("text", tokens[:BATCH]))
    )
    return {
        "artist": place.artist,
        "seed": place.seed,
        "key": arm.key,
        "stages": len(stages),
        "disk": round(disk, 3),
        "variants": {
            name: {
                "pairs": round(accuracies[name], 5),
                "numbers": sizes[name],
                "image": round(ratio(image_seconds, name, ONE), 3),
                "text": round(ratio(text_seconds, name, ONE), 3),
            }
            for name in variants
        },
    }


class _Separate:
    """Every tower run by itself, fused by concatenation."""

    def __init__(self, models: list[Any]):
        self.models = models

    def encode_image(self, images: Tensor, normalize: bool = False) -> Tensor:
        return fuse_embeddings([model.encode_image(images) for model in self.models], normalize=normalize)

    def encode_text(self, texts: Tensor, normalize: bool = False) -> Tensor:
        return fuse_embeddings([model.encode_text(texts) for model in self.models], normalize=normalize)


def _calls(model: Any, side: str, batch: Tensor) -> Any:
    encode = model.encode_image if side == "image" else model.encode_text
    return lambda: encode(batch, normalize=True)
