"""Everything the study trains and is scored on, drawn from the packages: the same arguments give the same bytes."""

import importlib.metadata
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.emoji.artist_sets import split, write_sets
from benchmarks.emoji.attributes import PEOPLE, Attributes, attributes_of
from benchmarks.emoji.differences import TABLE, differences
from benchmarks.emoji.drawings import SIDES, Drawing, draw_all
from benchmarks.emoji.names import Character, Icons, match, read_characters, read_icons
from benchmarks.emoji.packages import ARTISTS, DRAWN, NAMES, Package, fetch, read_members
from benchmarks.emoji.shards import Sample, read_shards, write_shards
from benchmarks.study.groups import UNSEEN, is_apart
from mcl_clip import seeds
from mcl_clip.artifacts import atomic_directory, atomic_path, read_json, sha256_file, write_json
from mcl_clip.errors import UserError

FORMAT = 1
UNSEEN_SHARE = 1 / 8  # of the captions that combine a role with a skin tone
COMBINED = 5  # names that a head must have, to be one of these
ARTIST = {package: artist for artist, packages in ARTISTS.items() for package in packages}


def generate(
    directory: Path,
    tarballs: Path,
    *,
    side: int = 32,
    seed: int = 0,
    processes: int = 2,
    packages: Sequence[Package] = DRAWN,
    names: Package = NAMES,
    progress: bool = False,
) -> Path:
    """Write `shards/PACKAGE/{{train,unseen}}-*.tar` and `artists/ARTIST/{{pairs,zero_shot}}` below `directory`, or
    reuse what stands there and was made from the same.

    The `unseen` shards hold a share of the captions that combine a role with a skin tone, drawn by `seed`; no model
    trains on them. Raises `UserError` where packages cannot be fetched or drawn.
    """
    if side not in SIDES:
        raise UserError(f"--side is one of {', '.join(map(str, SIDES))}, not {side}")
    characters, icons = _read(tarballs, packages, names, progress)
    attributes = {each.name: attributes_of(each) for each in reversed(characters)}
    apart = unseen_captions(characters, attributes, seed)
    named = match(icons, characters)
    wanted = {
        "format": FORMAT,
        "side": side,
        "seed": seed,
        "resvg": importlib.metadata.version("resvg_py"),
        "packages": {each.npm: each.sha256 for each in (names, *packages)},
    }
    jobs: list[tuple[Path, dict, tuple]] = [
        (
            directory / "shards" / package.name,
            wanted,
            (package, each, named[package.name], attributes, apart, side, seed),
        )
        for package, each in zip(packages, icons, strict=True)
    ]
    _make(jobs, _write_package, processes, progress, "packages drawn")
    drawn = {package.name: directory / "shards" / package.name for package in packages}
    made = {name: read_json(path / "manifest.json")["files"] for name, path in drawn.items()}
    wanted = {"format": FORMAT, "shards": made, "table": sha256_file(TABLE)}
    found = differences(characters, attributes)
    artists = dict.fromkeys(ARTIST[package.name] for package in packages)
    jobs = [(directory / "artists" / artist, wanted, (artist, drawn, found)) for artist in artists]
    _make(jobs, _write_artist, processes, progress, "artists' sets")
    _write_readme(directory, packages, names, side)
    write_json(directory / "data.json", {"packages": [package.name for package in packages]})
    return directory


def drawn_packages(directory: Path) -> list[str]:
    """Packages of finished data; `UserError` when there is none."""
    if not (directory / "data.json").is_file():
        raise UserError(
            f"{directory} holds no finished data; run `python -m benchmarks.emoji data` (--side as it says)"
        )
    return read_json(directory / "data.json")["packages"]


def unseen_captions(characters: Iterable[Character], attributes: dict[str, Attributes], seed: int) -> set[str]:
    """Captions kept out of all training: about one in eight of those with a skin tone and a head of many names."""
    captions = list(dict.fromkeys(each.name for each in characters))
    heads = Counter(attributes[name].head for name in captions)
    return {
        name
        for name in captions
        if attributes[name].group == PEOPLE
        and attributes[name].skin_tone
        and heads[attributes[name].head] >= COMBINED
        and is_apart(name, UNSEEN_SHARE, seed, UNSEEN)
    }


def shard_paths(directory: Path, packages: Iterable[str], kind: str = "train") -> list[Path]:
    """Tars of the named packages, in order."""
    return [path for package in packages for path in sorted((directory / "shards" / package).glob(f"{kind}-*.tar"))]


def _read(
    tarballs: Path, packages: Sequence[Package], names: Package, progress: bool
) -> tuple[list[Character], list[Icons]]:
    table = read_members(fetch(names, tarballs), ["data/openmoji.csv"])[0]
    icons = [
        read_icons(package.name, *read_members(fetch(package, tarballs), ["icons.json", "chars.json"]))
        for package in tqdm(packages, "packages fetched", disable=not progress)
    ]
    return read_characters(table), icons


def _make(
    jobs: list[tuple[Path, dict, tuple]], write: Callable[..., dict], processes: int, progress: bool, what: str
) -> None:
    """Artifacts that are not there yet, or not made from what is wanted, in processes of their own."""
    missing = [job for job in jobs if not _stands(job[0], job[1])]
    with tqdm(total=len(missing), desc=what, disable=not progress) as bar:
        if processes == 1:
            for path, wanted, values in missing:
                _write(path, wanted, write, values)
                bar.update()
            return
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            for future in as_completed(
                [pool.submit(_write, path, wanted, write, values) for path, wanted, values in missing]
            ):
                future.result()
                bar.update()


def _stands(path: Path, wanted: dict) -> bool:
    manifest = path / "manifest.json"
    if not manifest.is_file():
        return False
    found = read_json(manifest)
    return found["made_from"] == wanted and found["files"] == _hashes(path)


def _hashes(path: Path) -> dict[str, str]:
    files = sorted(each for each in path.rglob("*") if each.is_file() and each.name != "manifest.json")
    return {each.relative_to(path).as_posix(): sha256_file(each) for each in files}


def _write(path: Path, wanted: dict, write: Callable[..., dict], values: tuple) -> None:
    with atomic_directory(path) as temporary:
        counts = write(temporary, *values)
        write_json(temporary / "manifest.json", {"made_from": wanted, "counts": counts, "files": _hashes(temporary)})


def _write_package(
    directory: Path,
    package: Package,
    icons: Icons,
    named: dict[str, Character],
    attributes: dict[str, Attributes],
    apart: set[str],
    side: int,
    seed: int,
) -> dict[str, Any]:
    counts = Counter(
        {"without a name": sum(not each.get("hidden") for each in icons.data["icons"].values()) - len(named)}
    )
    drawn = list(draw_all(icons, named, side, counts))
    order = seeds.generator(seed, seeds.number_of(package.name)).permutation(len(drawn))
    samples = [_sample(drawn[place], package, attributes) for place in order]
    for kind, chosen in (("train", False), ("unseen", True)):
        part = [each for each in samples if (each.caption in apart) == chosen]
        write_shards(directory, part, kind + "-{:05d}.tar")
        counts[kind] = len(part)
    return dict(counts)


def _sample(drawing: Drawing, package: Package, attributes: dict[str, Attributes]) -> Sample:
    character = drawing.character
    about = {
        "package": package.name,
        "artist": ARTIST[package.name],
        "source": f"npm:{package.npm}@{package.version}/{drawing.icon}",
        "licence": package.licence,
        "credit": package.credit,
        "emoji": character.emoji,
        "code": character.code,
        "keywords": list(character.keywords),
    }
    return Sample(drawing.png, character.name, about | attributes[character.name].record())


def _write_artist(
    directory: Path, artist: str, drawn: dict[str, Path], found: dict[str, list[tuple[str, str]]]
) -> dict[str, Any]:
    own = [name for name in drawn if ARTIST[name] == artist]
    root = next(iter(drawn.values())).parent.parent
    others = read_shards(shard_paths(root, [name for name in drawn if name not in own]))
    train, unseen = (read_shards(shard_paths(root, own, kind)) for kind in ("train", "unseen"))
    return write_sets(directory, split(train, unseen, {each.caption for each in others}), found)


def _write_readme(directory: Path, packages: Sequence[Package], names: Package, side: int) -> None:
    rows = "".join(
        f"| {each.name} | {ARTIST[each.name]} | {each.credit} | {each.licence} | {each.npm} {each.version} |\n"
        for each in packages
    )
    with atomic_path(directory / "README.md") as temporary:
        temporary.write_text(
            f"# Emoji drawings, {side} pixels\n\nWritten by `python -m benchmarks.emoji data`. The drawings are their "
            "artists', under the licences below; whoever passes them on passes these on too. Drawn by resvg on white, "
            "not mirrored, not changed otherwise. Every sample's `.json` names its source, licence and credit.\n\n"
            "| shards | artist | credit | licence | npm |\n| --- | --- | --- | --- | --- |\n"
            f"{rows}\nCaptions, groups and keywords: {names.credit}, {names.licence}, "
            f"npm {names.npm} {names.version}.\n\n"
            "Train with an artist held out on the `train-*.tar` of all others, for example\n"
            f"`--train-data '{directory}/shards/{{noto,noto-v1}}/train-00000.tar'`, and score on `artists/ARTIST`:\n"
            "`mcl-mmvp --data .../pairs`, `mcl-zero-shot --dataset .../zero_shot --split known` (or `unseen`: "
            "combinations that no training shard has).\n",
            encoding="utf-8",
        )
