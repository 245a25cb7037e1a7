"""What the frozen parts of the real towers say of every drawing and caption: computed once, kept by content."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from benchmarks.emoji.shards import pixels_of
from benchmarks.emoji.towers import FrozenBlocks, FrozenText, image_trunk
from mcl_clip.artifacts import atomic_path

PART = 500


class Frozen:
    """The towers in `towers`, and below `kept` what they said.

    Drawings are PNG files, float16 maps [N, C, H, W] come back; texts are strings, float32 vectors [N, D] come back.
    """

    def __init__(self, towers: Path, kept: Path):
        self.towers, self.kept = towers, kept

    def drawings(self, name: str, pngs: Sequence[bytes], progress: bool = False) -> Tensor:
        """Maps of `pngs`; new ones are computed and kept under `name`."""

        def see(missing: Sequence[bytes]) -> Tensor:
            blocks = FrozenBlocks(image_trunk(self.towers))
            parts = tqdm(range(0, len(missing), PART), desc=name, disable=not progress)
            pixels = (np.stack([pixels_of(png) for png in missing[start : start + PART]]) for start in parts)
            return torch.cat([blocks(torch.from_numpy(each)) for each in pixels])

        return self._looked_up(name, pngs, see)

    def texts(self, name: str, texts: Sequence[str]) -> Tensor:
        """Vectors of `texts`."""
        return self._looked_up(name, [text.encode() for text in texts], self._read)

    def _read(self, missing: Sequence[bytes]) -> Tensor:
        return FrozenText(self.towers)([text.decode() for text in missing])

    def _looked_up(self, name: str, contents: Sequence[bytes], see: Callable[[Sequence[bytes]], Tensor]) -> Tensor:
        path = self.kept / f"{name}.safetensors"
        known = load_file(path) if path.is_file() else {}
        keys = [hashlib.sha256(content).hexdigest() for content in contents]
        missing = {key: content for key, content in zip(keys, contents, strict=True) if key not in known}
        if missing:
            known |= dict(zip(missing, see(list(missing.values())).unbind(), strict=True))
            with atomic_path(path) as temporary:
                save_file({key: each.contiguous() for key, each in known.items()}, temporary)
        return torch.stack([known[key] for key in keys])
