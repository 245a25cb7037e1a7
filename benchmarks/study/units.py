"""Units of work: one trained model, or one arm's scores; each stands as a whole or not at all."""

import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from benchmarks.study.captioned import CaptionedPlace, embed_texts
from benchmarks.study.models import Arm, Model, Negatives, Teacher, with_needs
from benchmarks.study.place import Place
from benchmarks.study.schedule import Unit
from benchmarks.study.teaching import Taught
from benchmarks.study.training import train
from mcl_clip import seeds
from mcl_clip.artifacts import atomic_directory, read_json, write_json
from mcl_clip.clustering.kmeans import assign, fit_kmeans
from mcl_clip.fusion.fit import Fit, fit_weights
from mcl_clip.models.stage_model import storable_state

CONCAT, FITTED, BEST_ALONE, LAST_ALONE = "concat", "fitted", "best on the fit pairs, alone", "last stage alone"
FUSIONS = (CONCAT, FITTED, "mean-cosine", BEST_ALONE, LAST_ALONE)
SHUFFLE = 11  # sets the random numbers of dealt labels apart from all others


def units_of(place: Place, arms: Sequence[Arm]) -> Iterator[Unit]:
    """What is left to do to score `arms`: models, each after what it needs, then scores.

    Scores from other data are made again.
    """
    for arm in arms:
        if (old := place.scored(arm)).is_file() and read_json(old)["data"] != place.compared:
            old.unlink()
    wanted = [arm for arm in arms if not place.scored(arm).is_file()]
    facts = {model: place.trained / model.key / "facts.json" for arm in wanted for model in with_needs(arm.models)}
    for model, done in facts.items():
        needs = tuple(facts[each] for each in model.needs)
        yield Unit(done, train_unit, (place, model), needs, model.recipe.epochs)
    for arm in wanted:
        needs = tuple(facts[model] for model in arm.models)
        yield Unit(place.scored(arm), score_unit, (place, arm), needs, 0)


@functools.lru_cache(maxsize=1)
def world_of(place: Place) -> Any:
    """The world in this process."""
    return place.make_world()


def train_unit(place: Place, model: Model) -> None:
    """Train one model; writes weights, embeddings, and what it cost."""
    torch.set_num_threads(1)
    world, root = world_of(place), place.trained
    trained = place.new_model(model)
    if model.start:
        trained.load_state_dict(_weights(place, model.start))
    if model.mean_of:
        trained.load_state_dict(mean_of([_weights(place, each) for each in model.mean_of]))
    place.lock(trained, model)
    started = time.process_time()
    labels = labels_of(place, world, model.negatives)
    labelled = time.process_time()
    taught = _taught(place, world, model, model.teacher) if model.teacher else None
    batch_loss = place.batch_loss(trained, world, model, taught)
    loss = train(trained, batch_loss, labels, model.recipe, seed=place.seed, draw=model.draw)
    fitted = time.process_time()
    found = place.train_embeddings(trained, world)
    embedded = time.process_time()
    found |= place.embeddings(trained, world)
    with atomic_directory(root / model.key) as temporary:
        save_file(storable_state(trained), temporary / "model.safetensors")
        save_file({name: each.contiguous() for name, each in found.items()}, temporary / "embeddings.safetensors")
        write_json(
            temporary / "facts.json",
            {
                "key": model.key,
                "epochs": model.recipe.epochs,
                "loss": loss if model.recipe.epochs else None,
                "training_seconds": fitted - labelled,
                "embedding_seconds": embedded - fitted,
                "clustering_seconds": labelled - started,
            },
        )


def labels_of(place: Place, world: Any, negatives: Negatives | None) -> list[str]:
    """Pseudo-labels of the training set, as `mcl_clip` writes them: `3/7`."""
    if negatives is None:
        return [""] * len(world)
    if negatives.alike:
        return place.labels_alike(world, negatives.alike)
    labels = _assigned(place, negatives, "train")
    if negatives.shuffled:
        order = seeds.generator(place.seed, SHUFFLE, len(negatives.models)).permutation(len(labels))
        labels = [labels[row] for row in order]
    return labels


def _assigned(place: Place, negatives: Negatives, split: str) -> list[str]:
    """Pseudo-labels of the samples of `split`, "train" or "fit", by clusters of the training set."""
    suffix = "" if negatives.of == "images" else f"_{negatives.of}"
    paths = []
    for model in negatives.models:
        parts = _embeddings(place, model)
        train_set, asked = (F.normalize(parts[name + suffix].float(), dim=-1).numpy() for name in ("train", split))
        fitted = fit_kmeans(train_set, negatives.clusters, seed=place.seed, threads=1)
        paths.append(assign(asked, fitted.centroids)[0].tolist())
    return ["/".join(map(str, path)) for path in zip(*paths, strict=True)]


def fit_arm(place: Place, world: Any, arm: Arm, parts: Sequence[dict[str, Tensor]]) -> Fit:
    """One weight a model, fitted on the samples set apart; negatives from anywhere where no clusters were used."""
    negatives, captions = arm.models[-1].negatives, world.fit_captions
    clustered = negatives is not None and not negatives.alike
    labels = _assigned(place, negatives, "fit") if negatives and clustered else [""] * len(captions)
    number = {label: place for place, label in enumerate(sorted(set(labels)))}
    images, texts = ([F.normalize(part[name], dim=-1) for part in parts] for name in ("fit", "fit_texts"))
    return fit_weights(images, texts, captions, [number[label] for label in labels])


def score_unit(place: Place, arm: Arm) -> None:
    """Score one arm under all fusions that its number of models allows."""
    torch.set_num_threads(1)
    world = world_of(place)
    parts = [_embeddings(place, model) for model in arm.models]
    found, fit = {CONCAT: place.score(parts, world, CONCAT)}, None
    if len(parts) > 1:
        found[LAST_ALONE] = place.score(parts[-1:], world, CONCAT)
    if len(parts) > 1 and place.has_captions:
        fit = fit_arm(place, world, arm, parts)
        best = int(np.argmin(fit.loss_alone))
        found[FITTED] = place.score(parts, world, FITTED, fit.weights)
        found["mean-cosine"] = place.score(parts, world, "mean-cosine")
        found[BEST_ALONE] = place.score(parts[best : best + 1], world, CONCAT)
    write_json(
        place.scored(arm),
        {
            "place": place.name,
            "seed": place.seed,
            "arm": arm.name,
            "key": arm.key,
            "data": place.compared,
            "training_images": len(world),
            "fit": fit and asdict(fit),
            "models": [model.record() for model in arm.models],
            "facts": [read_json(place.trained / model.key / "facts.json") for model in arm.models],
            "scores": {
                fusion: {name: round(value, 5) for name, value in values.items()} for fusion, values in found.items()
            },
        },
    )


def mean_of(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of weights by name ("model soup", arXiv 2203.05482)."""
    return {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}


def _taught(place: Place, world: Any, model: Model, teacher: Teacher) -> Taught:
    assert isinstance(place, CaptionedPlace)
    models = [place.new_model(each) for each in teacher.models]
    for trained, each in zip(models, teacher.models, strict=True):
        trained.load_state_dict(_weights(place, each))
        trained.eval()
    pictures = None
    if not model.shift:
        pictures = torch.cat([_embeddings(place, each)["train"] for each in teacher.models], 1)
    with torch.no_grad():
        texts = torch.cat([embed_texts(trained, world.tokens) for trained in models], 1)
        scale = torch.stack([trained.logit_scale for trained in models]).mean().exp()
    return Taught(
        models,
        place.images(world, model),
        pictures,
        texts,
        scale=float(scale) * teacher.scale,
        contrastive=teacher.contrastive,
    )


def _weights(place: Place, model: Model) -> dict[str, Tensor]:
    return load_file(place.trained / model.key / "model.safetensors")


def _embeddings(place: Place, model: Model) -> dict[str, Tensor]:
    return load_file(place.trained / model.key / "embeddings.safetensors")
