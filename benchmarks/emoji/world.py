"""The drawings in memory: what is trained on, and what the artist that was held out is scored on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from torch import Tensor

import mcl_clip.models  # noqa: F401  registers the tower
from benchmarks.emoji.data import ARTIST, drawn_packages, shard_paths
from benchmarks.emoji.shards import pixels_of, read_shards
from benchmarks.study import pixels as study_pixels
from benchmarks.study.groups import FIT, is_apart
from eval.data.mmvp import read_pairs
from mcl_clip import seeds
from mcl_clip.artifacts import read_json, sha256_json
from mcl_clip.openclip.configs import get_model_config

MODEL = "mcl-tiny-conv"
SHIFTS = 7  # sets the random numbers of shifts apart from the plan's
WHITE = 255


@dataclass(frozen=True)
class Scored:
    """Images uint8 [N, H, W, 3] and, for each, which of `World.classes` it shows."""

    images: Tensor
    classes: np.ndarray


@dataclass(frozen=True)
class World:
    """Images uint8 [N, H, W, 3], token ids int64 [N, context].

    fit: drawings whose captions were set apart from training, as whole groups. pairs: two images and two texts a pair,
    side by side, with the pairs' types. classes: every caption of the artist's zero-shot set.
    """

    train: Tensor
    tokens: Tensor
    captions: list[str]
    fit: Tensor
    fit_tokens: Tensor
    fit_captions: list[str]
    pairs: Tensor
    pair_tokens: Tensor
    pair_types: list[str]
    classes: Tensor
    known: Scored
    unseen: Scored

    def __len__(self) -> int:
        return len(self.captions)


def pixels(pngs: Sequence[bytes]) -> Tensor:
    """uint8 [N, H, W, 3] of PNG files."""
    return torch.from_numpy(np.stack([pixels_of(each) for each in pngs])) if pngs else torch.zeros(0, 0, 0, 3).byte()


def token_ids(captions: Sequence[str]) -> Tensor:
    """int64 [N, context]; what is said more than once is tokenized once."""
    tokenizer = open_clip.get_tokenizer(MODEL)
    unique = list(dict.fromkeys(captions))
    place = {caption: number for number, caption in enumerate(unique)}
    return tokenizer(unique)[[place[caption] for caption in captions]] if captions else torch.zeros(0, 0)


def make_world(
    data: Path,
    artist: str,
    seed: int,
    fit_share: float = 0.0,
    see: Callable[[Sequence[bytes]], Tensor] = pixels,
    read: Callable[[Sequence[str]], Tensor] = token_ids,
) -> World:
    """Everything for one held-out artist; `seed` draws which captions (a share of `fit_share`) are set apart to fit.

    see, read: of PNG files and of captions, what stands in the world for images and token ids.
    """
    samples = read_shards(shard_paths(data, training_packages(data, artist)))
    apart = [is_apart(each.caption, fit_share, seed, FIT) for each in samples]
    train = [each for each, out in zip(samples, apart, strict=True) if not out]
    fit = [each for each, out in zip(samples, apart, strict=True) if out]
    pairs = read_pairs(data / "artists" / artist / "pairs")
    zero_shot = data / "artists" / artist / "zero_shot"
    names = (zero_shot / "classnames.txt").read_text(encoding="utf-8").splitlines()
    place = {name: number for number, name in enumerate(names)}

    def scored(split: str) -> Scored:
        shown = read_shards(sorted((zero_shot / split).glob("*.tar")))
        return Scored(see([each.png for each in shown]), np.array([place[each.caption] for each in shown], np.int64))

    return World(
        train=see([each.png for each in train]),
        tokens=read([each.caption for each in train]),
        captions=[each.caption for each in train],
        fit=see([each.png for each in fit]),
        fit_tokens=read([each.caption for each in fit]),
        fit_captions=[each.caption for each in fit],
        pairs=see([path.read_bytes() for pair in pairs for path in pair.images]),
        pair_tokens=read([text for pair in pairs for text in pair.statements]),
        pair_types=[pair.type for pair in pairs],
        classes=read(names),
        known=scored("known"),
        unseen=scored("unseen"),
    )


def training_packages(data: Path, artist: str) -> list[str]:
    """Those of all other artists."""
    return [package for package in drawn_packages(data) if ARTIST[package] != artist]


def world_key(data: Path, artist: str, fit_share: float) -> str:
    """Changes with the training drawings and the tower."""
    packages = training_packages(data, artist)
    made = [read_json(data / "shards" / package / "manifest.json")["files"] for package in packages]
    return sha256_json([made, fit_share, get_model_config(MODEL)])[:12]


def scored_key(data: Path, artist: str, drawings: str) -> str:
    """Changes with the artist's pairs and zero-shot sets, and with `drawings`, a `world_key`."""
    return sha256_json([read_json(data / "artists" / artist / "manifest.json")["files"], drawings])[:12]


def normalized(images: Tensor) -> Tensor:
    """uint8 [N, H, W, 3] to the tower's float input [N, 3, H, W]."""
    return study_pixels.normalized(images.permute(0, 3, 1, 2))


class Moved:
    """Rows of images as input, moved by up to `shift` pixels on white, by other amounts in every epoch."""

    def __init__(self, images: Tensor, shift: int, *entropy: int) -> None:
        self.side, self.shift, self.entropy = images.shape[1], shift, entropy
        self.padded = torch.nn.functional.pad(images, (0, 0, shift, shift, shift, shift), value=WHITE)
        self.epoch, self.moves = -1, torch.zeros(0)

    def __call__(self, rows: Tensor, epoch: int) -> Tensor:
        """float [n, 3, H, W]."""
        if epoch != self.epoch:
            drawn = seeds.generator(*self.entropy, SHIFTS, epoch).integers(0, 2 * self.shift + 1, (len(self.padded), 2))
            self.epoch, self.moves = epoch, torch.from_numpy(drawn)
        top, left = self.moves[rows].T[..., None] + torch.arange(self.side)
        return normalized(self.padded[rows[:, None, None], top[:, :, None], left[:, None, :]])
