"""Units of work: one trained model, or one arm's scores; each stands as a whole or not at all."""

import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from benchmarks.emoji.hard_negatives import HardNegatives
from benchmarks.emoji.measures import embeddings, score
from benchmarks.emoji.models import Arm, Model, Negatives, with_needs
from benchmarks.emoji.world import MODEL, Moved, World, make_world, scored_key, world_key
from benchmarks.study.schedule import Unit
from benchmarks.study.training import train
from mcl_clip import seeds
from mcl_clip.artifacts import atomic_directory, read_json, write_json
from mcl_clip.clustering.kmeans import assign, fit_kmeans
from mcl_clip.models.stage_model import storable_state
from mcl_clip.openclip.configs import get_model_config
from mcl_clip.openclip.models import CLIP

FUSIONS: dict[str, tuple[str, tuple[float, ...] | None]] = {
    "concat": ("concat", None),
    "mean-cosine": ("mean-cosine", None),
    "1:2:4": ("mean-cosine", (1.0, 2.0, 4.0)),
    "last stage alone": ("concat", None),
}
SHUFFLE = 11  # sets the random numbers of dealt labels apart from all others


@dataclass(frozen=True)
class Place:
    """One artist held out, one seed: `data` as `generate` wrote it, `models` where trained ones stand, `scores` where
    the small results do.
    """

    data: Path
    models: Path
    scores: Path
    artist: str
    seed: int
    fit_share: float = 0.0

    @property
    def drawings(self) -> str:
        """Changes with the training drawings."""
        return world_key(self.data, self.artist, self.fit_share)

    @property
    def compared(self) -> str:
        """Changes with these, and with what is scored."""
        return scored_key(self.data, self.artist, self.drawings)

    @property
    def trained(self) -> Path:
        """Where the models stand."""
        return self.models / self.artist / f"seed_{self.seed}-{self.drawings}"

    def scored(self, arm: Arm) -> Path:
        """The results of one arm."""
        slug = arm.name.lower().replace(" ", "_")
        return self.scores / self.artist / f"seed_{self.seed}" / f"{slug}-{arm.key}.json"


def units_of(place: Place, arms: Sequence[Arm]) -> Iterator[Unit]:
    """What is left to do to score `arms`: models, each after what it needs, then scores.

    Scores from other drawings are made again.
    """
    root = place.trained
    for arm in arms:
        if (old := place.scored(arm)).is_file() and read_json(old)["data"] != place.compared:
            old.unlink()
    wanted = [arm for arm in arms if not place.scored(arm).is_file()]
    facts = {model: root / model.key / "facts.json" for arm in wanted for model in with_needs(arm.models)}
    for model, done in facts.items():
        needs = tuple(facts[each] for each in model.needs)
        yield Unit(done, train_unit, (place, root, model), needs, model.recipe.epochs)
    for arm in wanted:
        needs = tuple(facts[model] for model in arm.models)
        yield Unit(place.scored(arm), score_unit, (place, root, arm), needs, 0)


@functools.lru_cache(maxsize=1)
def world_of(data: Path, artist: str, seed: int, fit_share: float) -> World:
    """The world in this process."""
    return make_world(data, artist, seed, fit_share)


def train_unit(place: Place, root: Path, model: Model) -> None:
    """Train one model; writes weights, embeddings, and what it cost."""
    torch.set_num_threads(1)
    world = world_of(place.data, place.artist, place.seed, place.fit_share)
    trained = new_model(place.seed, model.draw)
    if model.start:
        trained.load_state_dict(load_file(root / model.start.key / "model.safetensors"))
    started = time.process_time()
    trained, loss = train(
        trained,
        Moved(world.train, model.shift, place.seed, model.draw),
        world.tokens,
        labels_of(root, world, model.negatives, place.seed),
        model.recipe,
        seed=place.seed,
        draw=model.draw,
        loss_of=HardNegatives(model.hardness) if model.hardness else None,
    )
    seconds = time.process_time() - started
    with atomic_directory(root / model.key) as temporary:
        save_file(storable_state(trained), temporary / "model.safetensors")
        found = embeddings(trained, world)
        save_file({name: each.contiguous() for name, each in found.items()}, temporary / "embeddings.safetensors")
        write_json(
            temporary / "facts.json",
            {"key": model.key, "epochs": model.recipe.epochs, "loss": loss, "training_seconds": seconds},
        )


def new_model(seed: int, draw: int) -> CLIP:
    """The demo's model with random weights of (seed, draw)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1000 * seed + draw)
        return CLIP(**get_model_config(MODEL))


def labels_of(root: Path, world: World, negatives: Negatives | None, seed: int) -> list[str]:
    """Pseudo-labels of the training set, as `mcl_clip` writes them: `3/7`."""
    if negatives is None:
        return [""] * len(world.captions)
    name = {"images": "train", "texts": "train_texts"}[negatives.of]
    paths = []
    for model in negatives.models:
        raw = load_file(root / model.key / "embeddings.safetensors")[name].float()
        features = F.normalize(raw, dim=-1).numpy()
        fitted = fit_kmeans(features, negatives.clusters, seed=seed, threads=1)
        paths.append(assign(features, fitted.centroids)[0].tolist())
    labels = ["/".join(map(str, path)) for path in zip(*paths, strict=True)]
    if negatives.shuffled:
        order = seeds.generator(seed, SHUFFLE, len(negatives.models)).permutation(len(labels))
        labels = [labels[row] for row in order]
    return labels


def score_unit(place: Place, root: Path, arm: Arm) -> None:
    """Score one arm under all fusions that its number of models allows."""
    torch.set_num_threads(1)
    world = world_of(place.data, place.artist, place.seed, place.fit_share)
    parts = [load_file(root / model.key / "embeddings.safetensors") for model in arm.models]
    found = {}
    for name, (fusion, weights) in FUSIONS.items():
        if len(parts) == 1 and name != "concat":
            continue
        chosen = parts[-1:] if name == "last stage alone" else parts
        if weights is None or len(weights) == len(chosen):
            found[name] = score(chosen, world, fusion, weights)
    write_json(
        place.scored(arm),
        {
            "artist": place.artist,
            "seed": place.seed,
            "arm": arm.name,
            "key": arm.key,
            "data": place.compared,
            "training_images": len(world.captions),
            "pairs": {kind: world.pair_types.count(kind) for kind in dict.fromkeys(world.pair_types)},
            "models": [model.record() for model in arm.models],
            "facts": [read_json(root / model.key / "facts.json") for model in arm.models],
            "scores": {
                fusion: {name: round(value, 5) for name, value in values.items()} for fusion, values in found.items()
            },
        },
    )
