"""WebDataset tars of drawings, as img2dataset writes them, and back to memory."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SHARD = 1_000


@dataclass(frozen=True)
class Sample:
    """One drawing: `png`, its caption, and what is known about it (package, licence, credit, attributes)."""

    png: bytes
    caption: str
    about: dict[str, Any]


@dataclass(frozen=True)
class Samples:
    """images uint8 [N, side, side, 3], with a caption and what is known about each."""

    images: np.ndarray
    captions: list[str]
    about: list[dict[str, Any]]


def write_shards(
    directory: Path, samples: Sequence[Sample], name: str = "{:05d}.tar", classes: dict[str, int] | None = None
) -> int:
    """Tars of SHARD samples each, named by their number; returns how many. `classes` adds a `.cls` by caption."""
    directory.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(samples), SHARD)
    for shard, start in enumerate(starts):
        with tarfile.open(directory / name.format(shard), "w", format=tarfile.USTAR_FORMAT) as tar:
            for place, sample in enumerate(samples[start : start + SHARD]):
                key = f"{shard:05d}{place:04d}"
                _add(tar, f"{key}.png", sample.png)
                _add(tar, f"{key}.txt", sample.caption.encode())
                _add(tar, f"{key}.json", json.dumps(_record(key, sample), ensure_ascii=False).encode())
                if classes is not None:
                    _add(tar, f"{key}.cls", str(classes[sample.caption]).encode())
    return len(starts)


def read_shards(paths: Iterable[Path]) -> list[Sample]:
    """Samples of tars written by `write_shards`, in order."""
    samples = []
    for path in paths:
        with tarfile.open(path) as tar:
            parts: dict[str, bytes] = {}
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                parts[member.name.partition(".")[2]] = file.read()
                if {"png", "txt", "json"} <= set(parts):
                    samples.append(Sample(parts["png"], parts["txt"].decode(), json.loads(parts["json"])))
                    parts = {}
    return samples


def in_memory(samples: Sequence[Sample]) -> Samples:
    """All samples decoded."""
    return Samples(
        np.stack([pixels_of(each.png) for each in samples]),
        [each.caption for each in samples],
        [each.about for each in samples],
    )


def pixels_of(png: bytes) -> np.ndarray:
    """uint8 [side, side, 3]."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def _record(key: str, sample: Sample) -> dict[str, Any]:
    width, height = Image.open(io.BytesIO(sample.png)).size
    return sample.about | {
        "caption": sample.caption,
        "key": key,
        "status": "success",
        "error_message": None,
        "width": width,
        "height": height,
        "original_width": width,
        "original_height": height,
        "sha256": hashlib.sha256(sample.png).hexdigest(),
    }


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
