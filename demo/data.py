"""Everything the demo trains and is scored on, generated: the same arguments give the same bytes."""

import csv
import hashlib
import io
import json
import shutil
import tarfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from demo.captioned import Drawn, write_captioned
from demo.captions import MENTIONS, write_captions
from demo.features import COUNTS, FEATURES, NAMES
from demo.render import SIDE, render
from mcl_clip import seeds
from mcl_clip.artifacts import atomic_directory, atomic_path, read_json, write_json
from mcl_clip.errors import UserError

FORMAT = 3
TRAIN, PAIRS, ZERO_SHOT = range(3)


@dataclass(frozen=True)
class Size:
    """How much is generated."""

    images: int = 14_000
    shard: int = 1_000
    pairs: int = 400
    zero_shot: int = 300


DEFAULT = Size()
TINY = Size(images=768, shard=256, pairs=8, zero_shot=24)


def generate(directory: Path, size: Size = DEFAULT, seed: int = 0, progress: bool = False) -> Path:
    """Write `train/*.tar`, `mmvp/` and `zero_shot/{feature}/` below `directory`, or reuse what stands there.

    Raises `UserError` for finished data of another seed or size.

    train: shards as img2dataset writes them, the feature values in each `.json`. mmvp: pairs that differ in one
    feature, in MMVP-VLM's layout. captions: the same images for retrieval, SugarCrepe and Winoground. zero_shot: a
    folder per class and a template file, as `datasets` reads an image folder.
    """
    wanted = {"format": FORMAT, "seed": seed, **asdict(size)}
    manifest = directory / "data.json"
    if manifest.exists():
        if read_json(manifest) != wanted:
            raise UserError(
                f"{directory} holds data of another seed, size or version; give another --output, or delete it"
            )
        return directory
    shutil.rmtree(directory / "train", ignore_errors=True)
    starts = range(0, size.images, size.shard)
    for shard, start in enumerate(tqdm(starts, "training shards", disable=not progress)):
        write_shard(directory / "train", shard, min(size.shard, size.images - start), seed)
    with atomic_directory(directory / "mmvp") as temporary:
        pairs = write_pairs(temporary, size.pairs, seed)
    with atomic_directory(directory / "captions") as temporary:
        write_captioned(temporary, pairs, seed)
    with atomic_directory(directory / "zero_shot") as temporary:
        for number in tqdm(range(len(FEATURES)), "zero-shot sets", disable=not progress):
            write_zero_shot(temporary / NAMES[number], number, size.zero_shot, seed)
    write_json(manifest, wanted)
    return directory


def write_shard(directory: Path, shard: int, count: int, seed: int) -> None:
    """One training shard, `00000.tar` and `00000_stats.json`, of images with independent features."""
    rng = seeds.generator(seed, TRAIN, shard)
    values = draw(count, rng)
    captions = write_captions(values, MENTIONS, rng)
    images = render(values, rng)
    with atomic_path(directory / f"{shard:05d}.tar") as temporary, tarfile.open(temporary, "w") as tar:
        for place, (row, caption, image) in enumerate(zip(values, captions, images, strict=True)):
            key, encoded = f"{shard:05d}{place:04d}", jpeg(image)
            record = img2dataset_record(key, caption, encoded) | feature_values(row)
            for suffix, data in (("jpg", encoded), ("json", json.dumps(record).encode()), ("txt", caption.encode())):
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    write_json(
        directory / f"{shard:05d}_stats.json",
        {
            "count": count,
            "successes": count,
            "failed_to_download": 0,
            "failed_to_resize": 0,
            "duration": 0.0,
            "start_time": 0.0,
            "end_time": 0.0,
            "status_dict": {"success": count},
        },
    )


def write_pairs(directory: Path, pairs: int, seed: int) -> list[Drawn]:
    """`pairs` pairs a feature; the images of a pair agree in all features but one, which the statements name.

    Returns the images, the two of a pair side by side.
    """
    rows: list[tuple[int, str, str]] = []
    drawn = []
    for number, feature in enumerate(FEATURES):
        rng = seeds.generator(seed, PAIRS, number)
        first = draw(pairs, rng)
        second = first.copy()
        second[:, number] = (first[:, number] + rng.integers(1, COUNTS[number], pairs)) % COUNTS[number]
        values = np.stack((first, second), 1).reshape(-1, len(FEATURES))
        folder = directory / "MLLM_VLM Images" / feature.pattern
        folder.mkdir(parents=True)
        for row, image in zip(values, render(values, rng), strict=True):
            rows.append((len(rows) + 1, feature.pattern, feature.phrases[row[number]]))
            (folder / f"{len(rows)}.jpg").write_bytes(jpeg(image))
            drawn.append(Drawn(f"{folder.relative_to(directory)}/{len(rows)}.jpg", row))
    with open(directory / "Questions.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("Question ID", "Type", "Statement"), *rows])
    return drawn


def write_zero_shot(directory: Path, number: int, count: int, seed: int) -> None:
    """`count` images in a folder per value of a feature; the folder's name is the phrase that names the value alone."""
    rng = seeds.generator(seed, ZERO_SHOT, number)
    values = draw(count, rng)
    values[:, number] = np.arange(count) % COUNTS[number]
    for place, (row, image) in enumerate(zip(values, render(values, rng), strict=True)):
        folder = directory / "test" / FEATURES[number].phrases[row[number]].replace(" ", "_")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{place:05d}.jpg").write_bytes(jpeg(image))
    (directory / "templates.txt").write_text("a photo of {}\nan image of {}\n")


def draw(count: int, rng: np.random.Generator) -> np.ndarray:
    """Value indices int64 [count, F], every feature independent and uniform."""
    return np.stack([rng.integers(0, values, count) for values in COUNTS], 1)


def feature_values(row: np.ndarray) -> dict[str, str]:
    """{feature: value} of one row."""
    return {feature.name: feature.values[value] for feature, value in zip(FEATURES, row, strict=True)}


def jpeg(image: np.ndarray) -> bytes:
    """Quality 95 without chroma subsampling: textures of two pixels survive."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=95, subsampling=0)
    return stream.getvalue()


def img2dataset_record(key: str, caption: str, encoded: bytes) -> dict:
    """The fields that img2dataset writes beside every image."""
    return {
        "caption": caption,
        "url": f"generated://{key}",
        "key": key,
        "status": "success",
        "error_message": None,
        "width": SIDE,
        "height": SIDE,
        "original_width": SIDE,
        "original_height": SIDE,
        "exif": "{}",
        "sha256": hashlib.sha256(encoded).hexdigest(),
    }
