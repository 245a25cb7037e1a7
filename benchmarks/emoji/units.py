"""Units of work: one trained model, or one arm's scores; each stands as a whole or not at all."""

import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
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
from mcl_clip.fusion.fit import Fit, fit_weights
from mcl_clip.models.stage_model import storable_state
from mcl_clip.openclip.configs import get_model_config
from mcl_clip.openclip.models import CLIP

CONCAT, FITTED, BEST_ALONE, LAST_ALONE = "concat", "fitted", "best on the fit pairs, alone", "last stage alone"
FUSIONS = (CONCAT, FITTED, "mean-cosine", BEST_ALONE, LAST_ALONE)
FIT_SHARE = 0.1  # of all captions, set apart from every arm's training
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
    fit_share: float = FIT_SHARE

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
    labels = _assigned(root, negatives, "train", seed)
    if negatives.shuffled:
        order = seeds.generator(seed, SHUFFLE, len(negatives.models)).permutation(len(labels))
        labels = [labels[row] for row in order]
    return labels


def _assigned(root: Path, negatives: Negatives, split: str, seed: int) -> list[str]:
    """Pseudo-labels of the drawings of `split`, "train" or "fit", by clusters of the training drawings."""
    suffix = {"images": "", "texts": "_texts"}[negatives.of]
    paths = []
    for model in negatives.models:
        parts = load_file(root / model.key / "embeddings.safetensors")
        train, asked = (F.normalize(parts[name + suffix].float(), dim=-1).numpy() for name in ("train", split))
        fitted = fit_kmeans(train, negatives.clusters, seed=seed, threads=1)
        paths.append(assign(asked, fitted.centroids)[0].tolist())
    return ["/".join(map(str, path)) for path in zip(*paths, strict=True)]


def fit_arm(place: Place, root: Path, arm: Arm, parts: Sequence[dict[str, torch.Tensor]], captions: list[str]) -> Fit:
    """One weight a model, fitted on the drawings set apart; negatives from anywhere where no clusters were used."""
    negatives = arm.models[-1].negatives
    labels = _assigned(root, negatives, "fit", place.seed) if negatives else [""] * len(captions)
    number = {label: place for place, label in enumerate(sorted(set(labels)))}
    images, texts = ([F.normalize(part[name], dim=-1) for part in parts] for name in ("fit", "fit_texts"))
    return fit_weights(images, texts, captions, [number[label] for label in labels])


def score_unit(place: Place, root: Path, arm: Arm) -> None:
    """Score one arm under all fusions that its number of models allows."""
    torch.set_num_threads(1)
    world = world_of(place.data, place.artist, place.seed, place.fit_share)
    parts = [load_file(root / model.key / "embeddings.safetensors") for model in arm.models]
    found, fit = {CONCAT: score(parts, world, "concat")}, None
    if len(parts) > 1:
        fit = fit_arm(place, root, arm, parts, world.fit_captions)
        best = int(np.argmin(fit.loss_alone))
        found[FITTED] = score(parts, world, "fitted", fit.weights)
        found["mean-cosine"] = score(parts, world, "mean-cosine")
        found[BEST_ALONE] = score(parts[best : best + 1], world, "concat")
        found[LAST_ALONE] = score(parts[-1:], world, "concat")
    write_json(
        place.scored(arm),
        {
            "artist": place.artist,
            "seed": place.seed,
            "arm": arm.name,
            "key": arm.key,
            "data": place.compared,
            "training_images": len(world.captions),
            "fit": fit and asdict(fit),
            "pairs": {kind: world.pair_types.count(kind) for kind in dict.fromkeys(world.pair_types)},
            "models": [model.record() for model in arm.models],
            "facts": [read_json(root / model.key / "facts.json") for model in arm.models],
            "scores": {
                fusion: {name: round(value, 5) for name, value in values.items()} for fusion, values in found.items()
            },
        },
    )
