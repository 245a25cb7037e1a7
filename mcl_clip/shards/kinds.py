"""What kind of data lies at a path, by its first bytes and its name: nothing of it is run."""

from pathlib import Path

_MAGIC = (
    (b"PAR1", "parquet"),
    (b"\x1f\x8b", "compressed"),
    (b"BZh", "compressed"),
    (b"\xfd7zXZ", "compressed"),
    (b"\x28\xb5\x2f\xfd", "compressed"),
    (b"PK\x03\x04", "zip"),
    (b"\xff\xd8\xff", "image"),
    (b"\x89PNG", "image"),
)
SUFFIXES = {
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".jsonl": "json lines",
    ".ndjson": "json lines",
    ".json": "annotations",
    ".tar": "tar",
}
_PACK = "mcl-shards pack {path} --output DIR writes tars of it"
_MENDS = {
    "csv": f"a table: {_PACK} (or, of a CSV, add --dataset-type csv)",
    "parquet": f"parquet: {_PACK}",
    "json lines": f"JSON lines: {_PACK}",
    "annotations": f"JSON: {_PACK}",
    "datasets": f"a data set of Hugging Face's `datasets`: {_PACK}",
    "images": f"a folder of images: {_PACK}",
    "compressed": "compressed: unpack it first (gunzip, bunzip2, xz -d or zstd -d), for samples are read in place",
    "zip": "a zip archive: unpack it, and mcl-shards pack FOLDER --output DIR writes tars of what is in it",
    "image": "one image; give tars, or their directory",
}
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})


def kind_of(path: Path) -> str | None:
    """csv, parquet, json lines, annotations, datasets, images, tars, tar, compressed, zip, image; None: unknown.

    A folder is looked at one level deep. A name decides where the first bytes do not.
    """
    try:
        if path.is_dir():
            return _kind_of_folder(path)
        if not path.is_file():
            return None
        with open(path, "rb") as file:
            start = file.read(512)
    except OSError:
        return None
    if start[257:262] == b"ustar":
        return "tar"
    return next((kind for magic, kind in _MAGIC if start.startswith(magic)), SUFFIXES.get(path.suffix.lower()))


def mend(path: str) -> str | None:
    """What a path holds instead of tars, and what to do with it; None when that cannot be told."""
    what = _MENDS.get(kind_of(Path(path)) or "")
    return what and f"{path} is {what.format(path=path)}"


def _kind_of_folder(path: Path) -> str | None:
    names = {entry.name for entry in path.iterdir()}
    if names & {"dataset_dict.json", "state.json"}:
        return "datasets"
    suffixes = {Path(name).suffix.lower() for name in names}
    if ".tar" in suffixes:
        return "tars"
    if ".parquet" in suffixes:
        return "parquet"
    if IMAGE_SUFFIXES & suffixes:
        return "images"
    for folder in sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        if any(entry.suffix.lower() in IMAGE_SUFFIXES for entry in folder.iterdir()):
            return "images"
    return None
