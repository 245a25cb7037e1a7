"""The index of plain WebDataset tars: where every sample lies, built once."""

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from mcl_clip.errors import UserError
from mcl_clip.shards.manifest import Manifest, make_directory, write_manifest
from mcl_clip.shards.offsets import (
    column,
    failed_rows,
    offsets_path,
    read_offsets,
    rows_sha256,
    write_rows,
)
from mcl_clip.shards.pool import collect_errors, part_of, run
from mcl_clip.shards.remote import is_remote, remote_size
from mcl_clip.shards.scan import scan_tar
from mcl_clip.shards.sources import absolute, name_sources
from mcl_clip.world import World, appears


def index_sources(
    sources: Sequence[str],
    output_dir: str | os.PathLike,
    *,
    workers: int = 1,
    caption_key: str | None = None,
    world: World | None = None,
    progress: bool = False,
) -> Manifest:
    """Index tars (see `sources.expand_sources`) into `output_dir`; the tars are only read.

    A finished index of the same tars is reused; a run that was killed goes on with what is missing. Captions
    come from `.txt`, or from `caption_key` of `.json`. The ranks of a `world` all call this, with the same sources.
    Raises `UserError` that names the tar for broken, truncated or compressed tars, keys that occur twice or members
    that leave the directory, and for an index of other or changed tars.
    """
    world = world or World()
    directory = Path(output_dir)
    paths = [absolute(path) for path in sources]
    stored = [_stored_path(path, directory) for path in paths]

    def is_finished() -> bool:
        if not (directory / "manifest.json").exists():
            make_directory(directory)
            return False
        _check_fresh(Manifest.load(directory), stored, caption_key)
        return True

    if not world.share(is_finished):
        mine = part_of(range(len(paths)), world.rank, world.world_size)
        done = run(_IndexTar(directory, paths, caption_key), mine, workers)
        found = dict(tqdm(done, "index", len(mine), unit="shard", disable=not progress or not world.is_first))
        parts = world.gather([found[shard] for shard in mine])
        results = [result for part in parts for result in part]
        world.share(lambda: _commit(directory, paths, stored, caption_key, results))
    return Manifest.load(appears(directory / "manifest.json").parent)


@dataclass(frozen=True)
class _IndexTar:
    directory: Path
    paths: list[str]
    caption_key: str | None

    def __call__(self, shard: int) -> dict[str, Any] | str:
        """What the manifest says of a shard, or why it cannot be indexed."""
        target, path = offsets_path(self.directory, shard), self.paths[shard]
        try:
            size, mtime_ns = _state(path)
            request = zlib.crc32(repr((path, self.caption_key)).encode())
            if target.exists() and target.stat().st_mtime_ns == mtime_ns:
                table, facts = read_offsets(target)
                if facts["tar_bytes"] == size and facts["request_crc32"] == request:
                    return _facts(table, facts)
            table, rest = scan_tar(path, shard, self.caption_key, size)
            facts = {"tar_bytes": size, "rest_crc32": rest, "request_crc32": request}
            write_rows(target, table, facts, mtime_ns)
        except UserError as error:
            return str(error)
        except OSError as error:
            return f"{path} cannot be indexed ({error.strerror}: {error.filename})"
        return _facts(table, facts)


def _state(path: str) -> tuple[int, int]:
    """(bytes, modification time) of a tar; remote ones are taken never to be modified."""
    if is_remote(path):
        return remote_size(path), 0
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _facts(table: pa.Table, facts: dict[str, int]) -> dict[str, Any]:
    failed = int(failed_rows(table).sum())
    return {
        "samples": len(table) - failed,
        "failed": failed,
        "bytes": int(column(table, "sample_size").sum()),
        "rows_sha256": rows_sha256(table),
        "tar_bytes": facts["tar_bytes"],
        "rest_crc32": facts["rest_crc32"],
    }


def _commit(
    directory: Path,
    paths: list[str],
    stored: list[str],
    caption_key: str | None,
    results: list[dict[str, Any] | str],
) -> None:
    errors = [result for result in results if isinstance(result, str)]
    collect_errors(f"{len(errors)} of {len(paths)} tars cannot be indexed", errors)
    facts = [result for result in results if not isinstance(result, str)]
    columns = {name: [fact[name] for fact in facts] for name in ("samples", "failed", "bytes", "rows_sha256")}
    if not sum(columns["samples"]):
        wanted = f".json with {caption_key!r}" if caption_key else ".txt (for captions in .json: --mcl-caption-key)"
        raise UserError(f"no sample of {paths[0]} and {len(paths) - 1} more has an image and a {wanted}")
    write_manifest(
        directory,
        "source",
        shards={"name": name_sources(paths), "label": [0] * len(paths), **columns},
        tars={
            "path": stored,
            "bytes": [fact["tar_bytes"] for fact in facts],
            "rest_crc32": [fact["rest_crc32"] for fact in facts],
        },
        caption_key=caption_key,
    )


def _stored_path(path: str, directory: Path) -> str:
    """Relative to the index when inside it, so that both can be moved together."""
    root = os.path.abspath(directory)
    if is_remote(path):
        return path
    return os.path.relpath(path, root) if os.path.commonpath([path, root]) == root else path


def _check_fresh(manifest: Manifest, stored: list[str], caption_key: str | None) -> None:
    again = f"delete {manifest.directory / 'manifest.json'} and run again"
    if manifest.kind != "source":
        raise UserError(f"{manifest.directory} holds {manifest.kind}, not an index; choose another directory")
    if manifest.caption_key != caption_key:
        raise UserError(
            f"{manifest.directory} takes captions from {manifest.caption_key or '.txt'}, not "
            f"{caption_key or '.txt'} (--mcl-caption-key); {again}"
        )
    known = manifest.tar_table["path"].to_pylist()
    if known != stored:
        other = next(
            (path for path, old in zip(stored, known, strict=False) if path != old),
            f"{len(stored)} tars, not {len(known)}",
        )
        raise UserError(
            f"{manifest.directory} is the index of other tars ({other}); {again}, or choose another directory"
        )
    for shard, (path, size) in enumerate(zip(manifest.tars.paths, manifest.tars.sizes, strict=True)):
        if is_remote(path):
            continue  # a network round trip each; their size is checked when they are fetched
        now = os.stat(path).st_size if os.path.exists(path) else None
        if now != size:
            raise UserError(f"{path} changed since it was indexed ({size} bytes then, {now} now); {again}")
        if os.stat(path).st_mtime_ns != os.stat(offsets_path(manifest.directory, shard)).st_mtime_ns:
            raise UserError(f"{path} was modified since it was indexed; {again}")
