"""The index of plain WebDataset tars: where every sample lies, built once."""

import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from mcl_clip.artifacts import atomic_path, make_directory
from mcl_clip.errors import UserError
from mcl_clip.left_out import Record, add, note
from mcl_clip.shards.apart import Apart
from mcl_clip.shards.captions import NO_CAPTIONS
from mcl_clip.shards.columns import Strings, map_table, write_table
from mcl_clip.shards.fresh import check_fresh, state_of
from mcl_clip.shards.manifest import Manifest, tell_left_out, write_manifest
from mcl_clip.shards.offsets import (
    SCHEMA,
    column,
    failed_rows,
    find_offsets,
    offsets_path,
    read_offsets,
    rows_sha256,
    write_rows,
)
from mcl_clip.shards.pool import part_of, run
from mcl_clip.shards.scan import scan_tar
from mcl_clip.shards.sources import absolute, name_sources
from mcl_clip.world import World, appears

SHOWN = 3  # broken tars that an error names


def index_sources(
    sources: Sequence[str],
    output_dir: str | os.PathLike,
    *,
    workers: int = 1,
    caption_key: str | None = None,
    repeats: Sequence[int] | None = None,
    skip_broken: bool = False,
    apart: Apart | None = None,
    world: World | None = None,
    progress: bool = False,
) -> Manifest:
    """Index tars (see `sources.expand_sources`) into `output_dir`; the tars are only read.

    A finished index of the same tars is reused, also after they were moved; a run that was killed goes on with what
    is missing. Captions come from `.txt`, or from `caption_key` of `.json`; with `NO_CAPTIONS` samples need none. An
    epoch takes each sample of a tar as often as `repeats` says of it, by default once, but for those that `apart` sets
    apart: they are never trained on, and `Manifest.apart` counts them. The ranks of a `world` all call this; `sources`
    and `repeats` are those of the first one, which alone looks at the tars of a finished index.
    What cannot be trained on is counted in `Manifest.left_out` and logged. Broken tars (truncated,
    compressed, keys that occur twice, members that leave the directory, unreadable) are all listed in `broken.jsonl`;
    with `skip_broken` they become shards without samples, else the first of them are named by a `UserError`. An index
    of other or changed tars raises `UserError` too.
    """
    world = world or World()
    directory = Path(output_dir)
    times = [1] * len(sources) if repeats is None else list(repeats)

    def begin() -> str | None:
        paths = [absolute(path) for path in sources]
        if not (directory / "manifest.json").exists():
            make_directory(directory)
            return _write_listing(directory, paths)
        stored = _stored_paths(paths, directory)
        check_fresh(Manifest.load(directory), paths, stored, caption_key, times, apart)
        return None

    listing = world.share(begin)
    if listing:
        paths = Strings(map_table(appears(directory / listing, world))["path"])
        mine = part_of(range(len(paths)), world.rank, world.world_size)
        done = run(_IndexTar(directory, paths, caption_key, apart), mine, workers)
        found = dict(tqdm(done, "index", len(mine), unit="shard", disable=not progress or not world.is_first))
        parts = world.gather([found[shard] for shard in mine])
        facts = [fact for part in parts for fact in part]
        world.share(lambda: _commit(directory, list(paths), caption_key, times, skip_broken, apart, facts))
        if world.is_first:
            (directory / listing).unlink()
    manifest = Manifest.load(appears(directory / "manifest.json", world).parent)
    if world.is_first:
        tell_left_out(manifest)
    return manifest


@dataclass(frozen=True)
class _IndexTar:
    """Write the offsets of one tar, and return the facts about it; those of a finished one are only looked at."""

    directory: Path
    paths: Sequence[str]
    caption_key: str | None
    apart: Apart | None

    def __call__(self, shard: int) -> dict[str, Any]:
        path = self.paths[shard]
        state: dict[str, Any] = {"tar_bytes": 0, "mtime_ns": 0}
        try:
            size, mtime_ns = state_of(path)
            wanted = (path, self.caption_key, *([self.apart] if self.apart else []))
            request = zlib.crc32(repr(wanted).encode())
            state = {"tar_bytes": size, "mtime_ns": mtime_ns, "request_crc32": request}
            known = _known(find_offsets(self.directory, shard), state, self.caption_key)
            if known:
                return known
            scan = scan_tar(path, shard, self.caption_key, size, self.apart)
        except UserError as error:
            if not str(error).startswith(path):
                raise  # the cache's error, say, is no fault of the tar
            return self._broken(shard, state, str(error))
        except OSError as error:
            return self._broken(shard, state, f"{path} cannot be read ({error.strerror})")
        facts = {**state, "rest_crc32": scan.rest_crc32, "left_out": scan.left_out, "apart": scan.apart}
        write_rows(offsets_path(self.directory, shard), scan.rows, facts)
        return _facts(scan.rows, facts, self.caption_key)

    def _broken(self, shard: int, state: dict[str, Any], reason: str) -> dict[str, Any]:
        rows = SCHEMA.empty_table()
        write_rows(offsets_path(self.directory, shard), rows, {})
        return {**_facts(rows, {**state, "rest_crc32": 0, "left_out": {}}, self.caption_key), "broken": reason}


def _known(target: Path, state: dict[str, Any], caption_key: str | None) -> dict[str, Any] | None:
    """The facts that an interrupted run left about the tar in this state."""
    try:
        table, facts = read_offsets(target)
    except UserError:
        return None
    return _facts(table, facts, caption_key) if state.items() <= facts.items() else None


def _facts(table: pa.Table, facts: dict[str, Any], caption_key: str | None) -> dict[str, Any]:
    failed, apart = int(failed_rows(table, caption_key != NO_CAPTIONS).sum()), facts.get("apart", 0)
    return {
        "samples": len(table) - failed - apart,
        "apart": apart,
        "failed": failed,
        "bytes": int(column(table, "sample_size").sum()),
        "rows_sha256": rows_sha256(table),
        **{name: facts[name] for name in ("tar_bytes", "rest_crc32", "mtime_ns", "left_out")},
    }


def _commit(
    directory: Path,
    paths: list[str],
    caption_key: str | None,
    repeats: list[int],
    skip_broken: bool,
    apart: Apart | None,
    facts: list[dict[str, Any]],
) -> None:
    broken = {path: fact["broken"] for path, fact in zip(paths, facts, strict=True) if "broken" in fact}
    _list_broken(directory / "broken.jsonl", broken)
    if broken and not (skip_broken and len(broken) < len(paths)):
        shown = "; ".join(list(broken.values())[:SHOWN])
        skip = ", or leave them out with --mcl-skip-broken" if len(broken) < len(paths) else ""
        raise UserError(
            f"{len(broken)} of {len(paths)} tars cannot be indexed, all of them listed in {directory}/broken.jsonl: "
            f"{shown}; mend them{skip}"
        )
    names = ("samples", "apart", "failed", "bytes", "rows_sha256")
    columns = {name: [fact[name] for fact in facts] for name in names}
    if sum(columns["apart"]) and not sum(columns["samples"]):
        raise UserError(
            f"all {sum(columns['apart'])} samples of {paths[0]} and {len(paths) - 1} more are set apart: lower "
            "--mcl-fit-share, or choose smaller groups (--mcl-fit-group)"
        )
    if not sum(columns["samples"]):
        wanted = f"a .json with {caption_key!r}" if caption_key else "a .txt (for captions in .json: --mcl-caption-key)"
        wanted = "" if caption_key == NO_CAPTIONS else f" and {wanted}"
        raise UserError(f"no sample of {paths[0]} and {len(paths) - 1} more has an image{wanted}")
    sources = name_sources(paths)
    write_manifest(
        directory,
        "source",
        shards={"name": sources, "label": [0] * len(paths), "repeats": repeats, **columns},
        tars={
            "path": _stored_paths(paths, directory),
            "bytes": [fact["tar_bytes"] for fact in facts],
            "rest_crc32": [fact["rest_crc32"] for fact in facts],
            "mtime_ns": [fact["mtime_ns"] for fact in facts],
        },
        caption_key=caption_key,
        apart=apart,
        left_out=_left_out(sources, facts),
    )


def _left_out(names: list[str], facts: list[dict[str, Any]]) -> Record:
    record: Record = {}
    for name, fact in zip(names, facts, strict=True):
        add(record, fact["left_out"], f"{name}/")
        if "broken" in fact:
            note(record, "broken tars", [name])
        elif not fact["samples"] + fact["apart"]:
            note(record, "shards without a usable sample", [name])
    return record


def _list_broken(path: Path, broken: dict[str, str]) -> None:
    """The list of all broken tars, a JSON line each; none where there is none."""
    path.unlink(missing_ok=True)
    if broken:
        with atomic_path(path) as temporary:
            lines = (json.dumps({"tar": tar, "reason": reason}) + "\n" for tar, reason in broken.items())
            temporary.write_text("".join(lines))


def _write_listing(directory: Path, paths: list[str]) -> str:
    """All ranks map the list of tars, which is named for what is in it: the disk is not asked by each of them."""
    table = pa.table({"path": pa.array(paths, pa.string())})
    name = f"offsets/tars-{hashlib.sha256(json.dumps(paths).encode()).hexdigest()[:16]}.arrow"
    write_table(directory / name, table)
    return name


def _stored_paths(paths: Sequence[str], directory: Path) -> list[str]:
    """Relative to the index when inside it, so that both can be moved together."""
    root = os.path.abspath(directory)
    inside = f"{root.rstrip('/')}/"
    return [path[len(inside) :] if path.startswith(inside) else path for path in paths]
