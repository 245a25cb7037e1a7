"""Tars -> index: what --train-data and --val-data name, packed where need be, opened where indexed, else indexed."""

from pathlib import Path

from mcl_clip.errors import UserError
from mcl_clip.packing.job import pack
from mcl_clip.packing.open import Wanted, open_source
from mcl_clip.packing.rows import Source
from mcl_clip.packing.synthetic import SyntheticRows
from mcl_clip.shards.apart import Apart
from mcl_clip.shards.captions import told
from mcl_clip.shards.index import index_sources
from mcl_clip.shards.kinds import kind_of
from mcl_clip.shards.manifest import Manifest, tell_left_out
from mcl_clip.shards.sources import expand_parts, manifest_directory, repeat_counts
from training.ranks import Ranks
from training.recipe import DataRecipe
from training.reporting import log

PACKED = {"auto": ("csv", "datasets"), "csv": ("csv",)}
"""What each --dataset-type packs on the way; the others take tars."""
SYNTHETIC_SAMPLES = 10_000


def open_or_index(
    spec: str,
    directory: Path,
    ranks: Ranks,
    *,
    caption_key: str | None = None,
    factors: str | None = None,
    skip_broken: bool = False,
    apart: Apart | None = None,
    workers: int = 1,
    flag: str = "--train-data",
) -> Manifest:
    """The data set that `flag` names by `spec`: a directory with a manifest.json, or tars, indexed into `directory`.

    Raises `UserError` for a `caption_key`, or a share to set `apart`, that an index was not made with, and what
    `index_sources` raises.
    """
    ready = ranks.share(lambda: str(manifest_directory(spec) or ""))
    if not ready:
        return index(
            spec,
            directory,
            ranks,
            caption_key=caption_key,
            factors=factors,
            skip_broken=skip_broken,
            apart=apart,
            workers=workers,
            flag=flag,
        )
    manifest = Manifest.load(ready)
    if caption_key and caption_key != manifest.caption_key:
        raise UserError(
            f"--mcl-caption-key {caption_key} is for tars, but {flag} {ready} is indexed already, with captions from "
            f"{told(manifest.caption_key)}; leave it out, or index the tars anew with it"
        )
    if factors:
        raise UserError(
            f"--train-data-upsampling-factors {factors} is for tars, but {flag} {ready} is indexed already, with "
            "counts of its own; leave it out, or index the tars anew with it"
        )
    if apart and apart != manifest.apart:
        raise UserError(
            f"--mcl-fit-share {apart.share:g} is for tars, but {flag} {ready} is indexed already and sets apart "
            f"{manifest.apart or 'nothing'}; leave it out, or index the tars anew with it"
        )
    if ranks.is_first:
        tell_left_out(manifest)
    return manifest


def index(
    spec: str,
    directory: Path,
    ranks: Ranks,
    *,
    caption_key: str | None = None,
    factors: str | None = None,
    skip_broken: bool = False,
    apart: Apart | None = None,
    workers: int = 1,
    flag: str = "--train-data",
) -> Manifest:
    """Index the tars that `spec` names into `directory`, or find that done; `factors` of its parts, as `2::1`."""
    tars: list[str] = []
    repeats: list[int] = []

    def expand() -> None:
        parts = expand_parts(spec, flag)
        counts = repeat_counts(factors) if factors else [1] * len(parts)
        if len(counts) != len(parts):
            raise UserError(
                f"--train-data-upsampling-factors {factors} has {len(counts)} numbers, {flag} {len(parts)} sources "
                "(joined by '::'); give one for each"
            )
        tars.extend(tar for part in parts for tar in part)
        repeats.extend(count for count, part in zip(counts, parts, strict=True) for _ in part)

    ranks.share(expand)  # the first rank lists them, which is enough
    return index_sources(
        tars,
        directory,
        repeats=repeats,
        workers=max(workers, 1),
        caption_key=caption_key,
        skip_broken=skip_broken,
        apart=apart,
        world=ranks,
        progress=ranks.is_first,
    )


def packed(spec: str | None, directory: Path, ranks: Ranks, data: DataRecipe, flag: str = "--train-data") -> str:
    """What `open_or_index` takes: `spec`, or tars of the table, data set or synthetic samples that it stands for.

    Those are written into the directory of their index, so that both go together.
    """
    if spec is None:
        source: Source = SyntheticRows(data.train_num_samples or SYNTHETIC_SAMPLES)
    elif kind_of(Path(spec)) in PACKED.get(data.dataset_type, ()):
        # open_clip's defaults mean columns of a CSV; elsewhere the usual names are looked for.
        given = {"image": data.csv_img_key, "caption": data.csv_caption_key}
        usual = {"image": "filepath", "caption": "title"}
        wanted = {name: value if value != usual[name] else None for name, value in given.items()}
        source = open_source(spec, Wanted(**wanted, separator=data.csv_separator))
    elif data.dataset_type == "csv":
        raise UserError(f"{flag} {spec} is no CSV or TSV; leave --dataset-type csv out")
    else:
        return spec
    done = pack(
        source,
        directory / "tars",
        workers=max(data.workers, 1),
        world=ranks,
        progress=ranks.is_first,
    )
    log.info(f"{flag} packed: {done}")
    return str(done.directory)
