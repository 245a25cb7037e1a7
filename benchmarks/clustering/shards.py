"""Shards of generated JPEG for the benchmarks of clustering."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mcl_clip import seeds
from mcl_clip.shards.index import index_sources
from mcl_clip.shards.manifest import Manifest


def jpeg(size: tuple[int, int], *seed: int) -> bytes:
    """Smooth colours with a little grain, (width, height): 500 x 375 take about 45 KB."""
    random = seeds.generator(*seed)
    coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    grain = random.normal(0, 7, (size[1], size[0], 1))
    stream = io.BytesIO()
    Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)).save(stream, "JPEG", quality=80)
    return stream.getvalue()


def index_of(images: Sequence[bytes], folder: Path, shard_size: int) -> Manifest:
    """The index of tars with these images, each with a caption."""
    folder.mkdir()
    paths = []
    for shard, start in enumerate(range(0, len(images), shard_size)):
        path = folder / f"{shard:05d}.tar"
        with tarfile.open(path, "w") as tar:
            for sample, image in enumerate(images[start : start + shard_size], start):
                for name, data in ((f"{sample:09d}.jpg", image), (f"{sample:09d}.txt", b"a photo")):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        paths.append(str(path))
    return index_sources(paths, folder / "index")
