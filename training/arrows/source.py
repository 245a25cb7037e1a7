"""Tars -> index: what --train-data and --val-data name, opened where it is indexed, else indexed."""

from pathlib import Path

from mcl_clip.errors import UserError
from mcl_clip.shards.index import index_sources
from mcl_clip.shards.manifest import Manifest
from mcl_clip.shards.sources import expand_sources, manifest_directory
from training.ranks import Ranks


def open_or_index(
    spec: str,
    directory: Path,
    ranks: Ranks,
    *,
    caption_key: str | None = None,
    workers: int = 1,
    flag: str = "--train-data",
) -> Manifest:
    """The data set that `flag` names by `spec`: a directory with a manifest.json, or tars, indexed into `directory`.

    Raises `UserError` for a `caption_key` that an index was not made with, and what `index_sources` raises.
    """
    ready = manifest_directory(spec)
    if not ready:
        return index(spec, directory, ranks, caption_key=caption_key, workers=workers, flag=flag)
    manifest = Manifest.load(ready)
    if caption_key and caption_key != manifest.caption_key:
        raise UserError(
            f"--mcl-caption-key {caption_key} is for tars, but {flag} {ready} is indexed already, with captions from "
            f"{manifest.caption_key or '.txt'}; leave it out, or index the tars anew with it"
        )
    return manifest


def index(
    spec: str,
    directory: Path,
    ranks: Ranks,
    *,
    caption_key: str | None = None,
    workers: int = 1,
    flag: str = "--train-data",
) -> Manifest:
    """Index the tars that `spec` names into `directory`, or find that done."""
    return index_sources(
        expand_sources(spec, flag),
        directory,
        workers=max(workers, 1),
        caption_key=caption_key,
        rank=ranks.rank,
        world_size=ranks.world_size,
        barrier=ranks.barrier,
        progress=ranks.is_first,
    )
