"""Captioned JPEGs with a photograph's spectrum and colours, in tars."""

import argparse
import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from mcl_clip import seeds


def write_shards(options: argparse.Namespace, folder: Path, size: int = 0) -> list[str]:
    """JPEG of 500 x 375 (about 40 KB), or of `size` x `size`, with a photograph's spectrum and colours (near 1/f)."""
    folder.mkdir(exist_ok=True)
    paths = []
    for shard in range(options.shards):
        path = folder / f"{shard:05d}.tar"
        with tarfile.open(path, "w") as tar:
            for sample in range(options.shard_size):
                caption = f"a photo of object {sample} of {shard}, seen from the side on a table in daylight"
                members = (("jpg", _jpeg(size, options.seed, shard, sample)), ("txt", caption.encode()))
                for extension, data in members:
                    info = tarfile.TarInfo(f"{shard:05d}{sample:04d}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        paths.append(str(path))
    return paths


def _jpeg(size: int, *seed: int) -> bytes:
    random = seeds.generator(*seed)
    height, width = (375, 500) if random.random() < 0.7 else (500, 375)
    height, width = (size, size) if size else (height, width)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    spectrum = np.exp(2j * np.pi * random.random((3, *frequency.shape))) / frequency**1.3
    grey, *colours = np.fft.irfft2(spectrum, (height, width))
    image = np.stack([grey, grey + 0.4 * colours[0], grey + 0.4 * colours[1]])
    image = 128 + 50 * image / image.std()
    pixels = np.clip(image, 0, 255).astype(np.uint8).transpose(1, 2, 0)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=75)
    return stream.getvalue()
