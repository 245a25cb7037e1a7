"""What the frozen parts of the real towers say of every drawing and caption: computed once, looked up by content."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from benchmarks.emoji.data import drawn_packages
from benchmarks.emoji.shards import pixels_of, read_shards
from benchmarks.emoji.towers import FrozenBlocks, FrozenText, image_trunk
from mcl_clip.artifacts import atomic_path

PART = 500


def freeze(data: Path, towers: Path, kept: Path, progress: bool = False) -> None:
    """Write `kept`/{{drawings,texts}}/PACKAGE.safetensors where not all of it stands there yet.

    They hold a float16 map [C, H, W] of every drawing and a float32 vector of every caption, named by the SHA-256 of
    its bytes.
    """
    for package in tqdm(drawn_packages(data), desc="packages seen by the frozen towers", disable=not progress):
        for kind, see in (("drawings", _see), ("texts", _read)):
            path = kept / kind / f"{package}.safetensors"
            samples = read_shards(sorted((data / "shards" / package).glob("*.tar")))
            contents = [each.png if kind == "drawings" else each.caption.encode() for each in samples]
            unique = {_key(content): content for content in contents}
            if path.is_file() and unique.keys() <= _keys(path):
                continue
            found = see(towers, list(unique.values())).unbind()
            with atomic_path(path) as temporary:
                save_file({key: each.contiguous() for key, each in zip(unique, found, strict=True)}, temporary)


class Frozen:
    """What stands in `kept`, for `make_world` to put in place of pixels and tokens."""

    def __init__(self, kept: Path):
        self.known = {
            kind: {key: each for path in sorted((kept / kind).iterdir()) for key, each in load_file(path).items()}
            for kind in ("drawings", "texts")
        }

    def drawings(self, pngs: Sequence[bytes]) -> Tensor:
        """float16 maps [N, C, H, W]."""
        return self._of("drawings", pngs)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """float32 vectors [N, D]."""
        return self._of("texts", [text.encode() for text in texts])

    def _of(self, kind: str, contents: Sequence[bytes]) -> Tensor:
        known = self.known[kind]
        return torch.stack([known[_key(content)] for content in contents]) if contents else torch.zeros(0)


def _key(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _keys(path: Path) -> set[str]:
    with safe_open(path, "pt") as file:
        return set(file.keys())


def _see(towers: Path, pngs: Sequence[bytes]) -> Tensor:
    blocks = FrozenBlocks(image_trunk(towers))
    parts = (pngs[start : start + PART] for start in range(0, len(pngs), PART))
    return torch.cat([blocks(torch.from_numpy(np.stack([pixels_of(png) for png in part]))) for part in parts])


def _read(towers: Path, texts: Sequence[bytes]) -> Tensor:
    return FrozenText(towers)([text.decode() for text in texts])
