"""Small WebDataset tars as img2dataset writes them, for tests."""

import io
import json
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from mcl_clip import seeds


def write_shards(
    directory: str | os.PathLike,
    num_shards: int,
    samples_per_shard: int,
    seed: int = 0,
    size: int = 32,
    *,
    extension: str = "jpg",
    with_json: bool = False,
    no_caption: Iterable[tuple[int, int]] = (),
    no_image: Iterable[tuple[int, int]] = (),
    broken_image: Iterable[tuple[int, int]] = (),
) -> list[str]:
    """Write `00000.tar`, `00001.tar`, ... with keys `000000000`, ...; returns the paths.

    Images are size x size and all different, captions too. no_caption, no_image, broken_image: (shard,
    sample) pairs to spoil. with_json adds a `.json` with `caption` as img2dataset does.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    no_caption, no_image, broken_image = set(no_caption), set(no_image), set(broken_image)
    paths = []
    for shard in range(num_shards):
        files = []
        for sample in range(samples_per_shard):
            key, place = f"{shard:05d}{sample:04d}", (shard, sample)
            caption = f"caption {sample} of shard {shard}, seed {seed}"
            if place not in no_image:
                data = image_bytes(seed, shard, sample, size=size, extension=extension)
                files.append((f"{key}.{extension}", b"not an image" if place in broken_image else data))
            if place not in no_caption:
                files.append((f"{key}.txt", caption.encode()))
            if with_json:
                files.append((f"{key}.json", json.dumps({"caption": caption, "key": key}).encode()))
        paths.append(write_tar(directory / f"{shard:05d}.tar", files))
    return paths


def image_bytes(*seed: int, size: int = 32, extension: str = "jpg") -> bytes:
    """An encoded RGB image of smooth random colours, a function of `seed`."""
    coarse = seeds.generator(*seed).integers(0, 256, (4, 4, 3), np.uint8)
    image = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, {"jpg": "jpeg"}.get(extension, extension))
    return stream.getvalue()


def write_tar(
    path: str | os.PathLike, files: Iterable[tuple[str, bytes]], *, format: int = tarfile.PAX_FORMAT, mtime=0
) -> str:
    """A tar of (name, bytes) members in order; a float `mtime` gives every member a pax header."""
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), mtime
            tar.addfile(info, io.BytesIO(data))
    return str(path)


def read_samples(paths: Iterable[str | os.PathLike]) -> dict[tuple[str, str], dict[str, bytes]]:
    """{(tar's stem, key): {extension: bytes}}: the slow twin of the index, by the standard library."""
    found: dict[tuple[str, str], dict[str, bytes]] = {}
    for path in paths:
        with tarfile.open(path) as tar:
            for member in tar:
                folder, _, base = member.name.rpartition("/")
                stem, _, extension = base.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                file = tar.extractfile(member)
                assert file is not None
                found.setdefault((Path(path).stem, key), {})[extension] = file.read()
    return found
