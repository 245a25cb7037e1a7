"""Two images and two captions, each caption for one image: Winoground and NaturalBench-Retrieval."""

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from eval.data.caption_files import inside
from eval.data.hf_datasets import is_datasets_folder, load_local, read_image, undecoded
from eval.data.hub import gated, said_once
from eval.data.images import Sample, file_sample
from mcl_clip.errors import UserError
from mcl_clip.loading.class_folders import is_hidden, list_images

COLUMNS = ("image_0", "image_1", "caption_0", "caption_1")
TAG = "collapsed_tag"


@dataclass(frozen=True)
class Benchmark:
    """Where a benchmark is published: its hub repository, its archive there, and the lists of its examples."""

    repository: str
    files: tuple[str, ...]
    lists: tuple[str, ...]


BENCHMARKS = {
    # Thrush et al., arXiv 2204.03162
    "winoground": Benchmark(
        "facebook/winoground",
        ("data/examples.jsonl", "data/images.zip"),
        ("data/examples.jsonl", "examples.jsonl"),
    ),
    # Li et al., arXiv 2410.14669
    "naturalbench_retrieval": Benchmark(
        "BaiqiL/NaturalBench",
        ("NaturalBench-Retrieval.zip",),
        ("NaturalBench-Retrieval/metadata.json", "metadata.json"),
    ),
}


@dataclass(frozen=True)
class Example:
    """Caption i belongs to image i; the tag is empty where the benchmark has none."""

    images: tuple[Sample, Sample]
    captions: tuple[str, str]
    tag: str


def open_examples(benchmark: str, data: str | Path | None = None, images: str | Path | None = None) -> list[Example]:
    """The examples of one of BENCHMARKS, in the published order.

    `data` is a folder with it as published (with its zip, or unpacked), a table of the same columns (a folder of
    parquet or saved to disk, a .parquet), or a .json or .jsonl of such examples; without it the hub is asked. Images
    that are files are named from the folder `images` on, by default the list's. Raises `UserError` with the steps to
    take when it cannot be had.
    """
    place = fetch(benchmark) if data is None else Path(data)
    if not place.exists():
        raise UserError(f"--data {place} does not exist; name the folder that holds {BENCHMARKS[benchmark].lists[-1]}")
    if place.suffix == ".parquet" or (place.is_dir() and is_datasets_folder(place)):
        found = list(_from_table(place))
    else:
        found = list(_from_list(BENCHMARKS[benchmark].lists, place, None if images is None else Path(images)))
    if not found:
        raise UserError(f"--data {place} holds no examples")
    return found


def fetch(benchmark: str) -> Path:
    """Fetch the published files from the hub; `UserError` with the steps when it is gated or there is no network."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    each = BENCHMARKS[benchmark]
    try:
        with said_once():
            paths = [Path(hf_hub_download(each.repository, file, repo_type="dataset")) for file in each.files]
    except (GatedRepoError, RepositoryNotFoundError):  # without a token a gated repository is said not to exist
        raise UserError(f"{each.repository} {gated(each.repository)}") from None
    except Exception as error:
        raise UserError(
            f"{each.repository} cannot be fetched ({type(error).__name__}); check the network, or fetch "
            f"{' and '.join(each.files)} elsewhere and name their folder with --data"
        ) from None
    return paths[0].parent


def _from_table(place: Path) -> Iterator[Example]:
    table = load_local(place, "test", "--data")
    _require_columns(table.column_names, place)
    images = table
    for column in COLUMNS[:2]:
        images = undecoded(images, column, str(place))
    texts = table.select_columns([name for name in (*COLUMNS[2:], TAG) if name in table.column_names])
    for row, record in enumerate(texts):
        _require_texts(record, COLUMNS[2:], place)
        first, second = (
            Sample(partial(read_image, images, row, column), f"{place}[{row}] {column}", record[f"caption_{number}"])
            for number, column in enumerate(COLUMNS[:2])
        )
        yield Example((first, second), (record["caption_0"], record["caption_1"]), record.get(TAG) or "")


def _from_list(lists: Sequence[str], place: Path, images: Path | None) -> Iterator[Example]:
    """Examples of a JSON: `place` itself, or one of `lists` in that folder or in a zip there."""
    packed = sorted(each for each in place.rglob("*.zip") if not is_hidden(each.name)) if place.is_dir() else []
    listed = place if place.is_file() else next((place / name for name in lists if (place / name).is_file()), None)
    if listed is not None:
        text = _read_text(listed)
    elif packed:
        text = _text_in(packed[0], lists)
    else:
        raise UserError(f"--data {place} has neither {lists[-1]} nor a zip with it")
    image = _image_finder(images or (listed.parent if listed is not None else place), packed)
    for record in _records(text, place):
        if not isinstance(record, dict):
            raise UserError(f"the list of examples in {place} holds {record!r}, which is no example")
        _require_columns(list(record), place)
        _require_texts(record, COLUMNS, place)
        first, second = (image(record[f"image_{number}"], record[f"caption_{number}"]) for number in (0, 1))
        yield Example((first, second), (record["caption_0"], record["caption_1"]), record.get(TAG) or "")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--data {path} cannot be read as text ({error})") from None


def _records(text: str, place: Path) -> list[dict[str, Any]]:
    """JSON, or JSON by line."""
    try:
        if text.lstrip().startswith("["):
            return json.loads(text)
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError as error:
        raise UserError(f"the list of examples in {place} is no JSON ({error}); fetch it again") from None


def _text_in(archive: Path, names: Sequence[str]) -> str:
    with _open_zip(archive) as files:
        found = next((name for name in names if name in files.namelist()), None)
        if found is None:
            raise UserError(f"{archive} has no {names[0]}; fetch it again")
        return files.read(found).decode("utf-8-sig")


def _image_finder(folder: Path, archives: Sequence[Path]) -> Callable[[str, str], Sample]:
    """Image samples by name, with or without extension, in the zips and `folder`/images, or by path from `folder` on.

    Nothing is unpacked, and no path leads out of `folder`.
    """
    known: dict[str, tuple[Callable[[], bytes], str]] = {}
    for archive in archives:
        files = _open_zip(archive)
        for entry in map(PurePosixPath, files.namelist()):
            known[entry.name] = known[entry.stem] = partial(files.read, str(entry)), f"{archive}:{entry}"
    for path in list_images(folder / "images").images:
        known[path.name] = known[path.stem] = path.read_bytes, str(path)

    def find(name: str, label: str) -> Sample:
        return Sample(*known[name], label) if name in known else file_sample(inside(folder, name), label)

    return find


def _open_zip(archive: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(archive)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{archive} is no whole zip ({error}); fetch it again") from None


def _require_columns(names: Sequence[str], place: Path) -> None:
    if missing := [column for column in COLUMNS if column not in names]:
        raise UserError(f"{place} has no column {missing[0]} but {', '.join(names)}; expected are {', '.join(COLUMNS)}")


def _require_texts(record: Mapping[str, Any], columns: Sequence[str], place: Path) -> None:
    for column in columns:
        if not isinstance(record[column], str):
            raise UserError(f"an example of {place} has the {column} {record[column]!r}, which is no text")
