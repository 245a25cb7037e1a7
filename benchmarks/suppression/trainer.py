"""The study's models: new ones, what they see in images, and the clusters of that."""

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.suppression.settings import MODEL, Settings
from benchmarks.suppression.world import World
from demo.features import NAMES
from mcl_clip.clustering.kmeans import assign, fit_kmeans
from mcl_clip.openclip.configs import get_model_config
from mcl_clip.openclip.models import CLIP


def new_model(settings: Settings, seed: int, draw: int) -> CLIP:
    """The demo's model with random weights of (seed, draw)."""
    config = get_model_config(MODEL)
    config["embed_dim"] = settings.embed_dim
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1000 * seed + draw)
        return CLIP(**config)


@torch.inference_mode()
def embed(model: CLIP, images: torch.Tensor) -> torch.Tensor:
    """Raw image embeddings [N, D]."""
    return torch.cat([model.encode_image(chunk) for chunk in images.split(500)])


def cluster(model: CLIP, world: World, settings: Settings, seed: int) -> np.ndarray:
    """Cluster of every training sample."""
    features = F.normalize(embed(model, world.train.images), dim=-1).numpy()
    fitted = fit_kmeans(features, settings.clusters, seed=seed)
    return assign(features, fitted.centroids)[0]


def labels_alike(values: np.ndarray, but: str) -> list[str]:
    """Labels under which samples agree in all features but one."""
    kept = [index for index, name in enumerate(NAMES) if name != but]
    return ["-".join(map(str, row)) for row in values[:, kept].tolist()]
