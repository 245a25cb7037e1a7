"""Packing a CSV of images against `tar` of the same files, both synced, the page cache warm; and its memory."""

import argparse
import csv
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.synced import timed
from mcl_clip import seeds
from mcl_clip.packing.job import pack
from mcl_clip.packing.open import Wanted, open_source
from mcl_clip.packing.synthetic import IMAGES, SyntheticRows

MIB = 1 << 20


def main(arguments: list[str] | None = None) -> int:
    """Write images, tar and pack them by turns, print the best of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--few-images", type=int, default=5_000, help="whose peak memory is compared")
    parser.add_argument("--image-kib", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2 * _cores(), help="as mcl-shards pack has them")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--directory", default=".", help="where the temporary files go (the disk measured)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(_packed(Path(options.child), options.workers)))
        return 0
    with tempfile.TemporaryDirectory(prefix=".pack-", dir=options.directory) as temporary:
        result = _measure(options, Path(temporary))
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))
    return 0


def _measure(options: argparse.Namespace, folder: Path) -> dict:
    size = _write_images(folder / "images", options.images, options.image_kib << 10)
    _write_table(folder / "few.csv", options.few_images)
    _write_table(folder / "all.csv", options.images)
    _read_all(folder / "images")
    tars, packs, peaks = [], [], []
    for _ in range(options.repeats):
        tars.append(timed(lambda: subprocess.run(["tar", "cf", "all.tar", "images"], cwd=folder, check=True)))
        (folder / "all.tar").unlink()
        done = _child(folder / "all.csv", options.workers)
        packs.append(done["seconds"])
        peaks.append(done["peak_mib"])
    few = _child(folder / "few.csv", options.workers)["peak_mib"]
    return {
        "ratio_vs_tar": round(min(tars) / min(packs), 3),
        "pack_mib_per_s": round(size / MIB / min(packs), 1),
        "tar_mib_per_s": round(size / MIB / min(tars), 1),
        "peak_mib": max(peaks),
        "peak_mib_few": few,
        "peak_grows_mib": round(max(peaks) - few, 1),
        "pack_s": [round(seconds, 3) for seconds in packs],
        "tar_s": [round(seconds, 3) for seconds in tars],
        "mib": round(size / MIB, 1),
        **{name: getattr(options, name) for name in ("images", "few_images", "image_kib", "workers")},
    }


def _child(table: Path, workers: int) -> dict:
    """Pack in a process of its own, whose memory is that of packing; the output is checked and thrown away."""
    command = [sys.executable, "-m", "benchmarks.pack", "--child", str(table), "--workers", str(workers)]
    done = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    rows = table.read_text().count("\n") - 1
    assert done["samples"] == rows, (done, rows)
    shutil.rmtree(table.with_suffix(".packed"))
    return done


def _packed(table: Path, workers: int) -> dict:
    source = open_source(str(table), Wanted(separator=","))
    samples = []
    seconds = timed(lambda: samples.append(pack(source, table.with_suffix(".packed"), workers=workers).samples))
    own, worker = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {"samples": samples[0], "seconds": seconds, "peak_mib": round(own + worker * (workers > 1) * workers, 1)}


def _write_images(folder: Path, count: int, size: int) -> int:
    """`count` different JPEGs of `size` bytes (bytes behind the image fill them up); returns all their bytes."""
    rows = SyntheticRows(IMAGES)
    images = [row.image for unit in rows.units(IMAGES, folder) for row in rows.rows(unit, folder)]
    random = seeds.generator(0)
    for number in tqdm(range(count), "images", disable=not sys.stderr.isatty()):
        path = folder / f"{number // 1000:03d}" / f"{number:08d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = images[number % IMAGES]
        assert isinstance(image, bytes)
        path.write_bytes(image + random.integers(0, 256, max(size - len(image), 8), np.uint8).tobytes())
    return sum(path.stat().st_size for path in folder.rglob("*.jpg"))


def _write_table(path: Path, count: int) -> None:
    with open(path, "w", newline="") as file:
        names = (f"images/{number // 1000:03d}/{number:08d}.jpg" for number in range(count))
        rows = ((name, f"a caption of some forty characters, number {name[-8:-4]}") for name in names)
        csv.writer(file).writerows([("filepath", "title"), *rows])


def _read_all(folder: Path) -> None:
    for path in folder.rglob("*.jpg"):
        path.read_bytes()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
