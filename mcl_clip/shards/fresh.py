"""Whether a finished index is that of these tars, as they are now."""

import os

from mcl_clip.errors import UserError
from mcl_clip.shards.apart import Apart
from mcl_clip.shards.captions import told
from mcl_clip.shards.columns import Strings
from mcl_clip.shards.manifest import Manifest
from mcl_clip.shards.remote import is_remote, remote_size
from mcl_clip.shards.sources import name_sources

UNKNOWN = -(1 << 63)
TOLERANCE = 2  # seconds: what file systems and copies round a modification time to (FAT, the coarsest, to 2)


def state_of(path: str) -> tuple[int, int]:
    """(bytes, modification time) of a tar; remote ones are taken never to be modified."""
    if is_remote(path):
        return remote_size(path), 0
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def check_fresh(
    manifest: Manifest,
    paths: list[str],
    stored: list[str],
    caption_key: str | None,
    repeats: list[int],
    apart: Apart | None,
) -> None:
    """Refuse an index that is not that of these tars; where they only lie elsewhere now, it is told so."""
    again = f"delete {manifest.directory / 'manifest.json'} and run again"
    if manifest.kind != "source":
        raise UserError(f"{manifest.directory} holds {manifest.kind}, not an index; choose another directory")
    if manifest.caption_key != caption_key:
        raise UserError(
            f"{manifest.directory} takes captions from {told(manifest.caption_key)}, not "
            f"{told(caption_key)} (--mcl-caption-key, --mcl-objective); {again}"
        )
    if manifest.apart != apart:
        raise UserError(
            f"{manifest.directory} sets apart {manifest.apart or 'nothing'}, not {apart or 'nothing'} "
            f"(--mcl-fit-share, --mcl-fit-group, --seed); {again}: the tars are read once more"
        )
    known = Strings(manifest.tar_table["path"])
    is_same = known == stored
    if not is_same and not _are_moved(manifest, paths):
        other = next(
            (path for path, old in zip(stored, known, strict=False) if path != old),
            f"{len(stored)} tars, not {len(known)}",
        )
        raise UserError(
            f"{manifest.directory} is the index of other tars ({other}); {again}, or choose another directory"
        )
    if manifest.shard_repeats.tolist() != repeats:
        raise UserError(
            f"{manifest.directory} repeats its sources otherwise (--train-data-upsampling-factors); {again}: the tars "
            "are not read once more"
        )
    _check_states(manifest, paths, again)
    if not is_same:
        manifest.relocate(stored)


def _check_states(manifest: Manifest, paths: list[str], again: str) -> None:
    """One call to the file system a local tar; of a remote one the size is checked when it is fetched."""
    times = manifest.tar_table["mtime_ns"]
    then = zip(manifest.tars.sizes, times.fill_null(UNKNOWN).to_numpy().tolist(), strict=True)
    for path, (size, time) in zip(paths, then, strict=True):
        if is_remote(path):
            continue
        try:
            status = os.stat(path)
        except OSError:
            status = None
        if status is None or status.st_size != size:
            now = status and status.st_size
            raise UserError(f"{path} changed since it was indexed ({size} bytes then, {now} now); {again}")
        seconds = 0 if time == UNKNOWN else abs(status.st_mtime_ns - time) / 1e9
        if seconds > TOLERANCE:
            raise UserError(
                f"{path} was modified since it was indexed: the size is the same, but the time differs by "
                f"{seconds:.1f} s ({TOLERANCE} s are tolerated); {again}: the tars are read once more, "
                "and what was made of them stays good when they are the same"
            )


def _are_moved(manifest: Manifest, paths: list[str]) -> bool:
    """Whether tars at other paths are those of the index: their names, sizes and exact times are."""
    then = zip(map(int, manifest.tars.sizes), manifest.tar_table["mtime_ns"].to_pylist(), strict=True)
    return name_sources(paths) == manifest.shard_names and [state_of(path) for path in paths] == list(then)
