"""What one artist is scored on: pairs, and zero-shot sets of captions that others draw and that nobody does."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.emoji.pairs import find_pairs, write_pairs
from benchmarks.emoji.shards import Sample, write_shards

TEMPLATES = "{}\n"


@dataclass(frozen=True)
class ArtistSets:
    """Drawings of one artist by what the training drawings of all others say: `known` captions occur there, `unseen`
    ones were kept out of training on purpose; the rest, drawn by this artist alone, is `alone`.
    """

    known: list[Sample]
    unseen: list[Sample]
    alone: int


def split(train: Sequence[Sample], unseen: Sequence[Sample], known: set[str]) -> ArtistSets:
    """From an artist's two kinds of shards, and the captions of all other artists' training shards."""
    kept = [each for each in train if each.caption in known]
    return ArtistSets(kept, list(unseen), len(train) - len(kept))


def write_sets(directory: Path, sets: ArtistSets, differences: dict[str, list[tuple[str, str]]]) -> dict[str, Any]:
    """`pairs/` in MMVP-VLM's layout and `zero_shot/` in CLIP_benchmark's, with the splits known and unseen, whose
    shards are image-text pairs too; returns the counts.
    """
    pairs, invisible = find_pairs([*sets.known, *sets.unseen], differences)
    write_pairs(directory / "pairs", pairs)
    root = directory / "zero_shot"
    names = sorted({each.caption for each in (*sets.known, *sets.unseen)})
    root.mkdir(parents=True)
    (root / "classnames.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    (root / "zeroshot_classification_templates.txt").write_text(TEMPLATES)
    classes = {name: number for number, name in enumerate(names)}
    for name, samples in (("known", sets.known), ("unseen", sets.unseen)):
        count = write_shards(root / name, samples, "{}.tar", classes)
        (root / name / "nshards.txt").write_text(f"{count}\n")
    kinds = [pair.type for pair in pairs]
    return {
        "known": len(sets.known),
        "unseen": len(sets.unseen),
        "drawn by this artist alone, left out": sets.alone,
        "pairs": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
        "pairs whose difference is not visible, left out": invisible,
    }
