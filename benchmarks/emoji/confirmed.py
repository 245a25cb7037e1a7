"""What was confirmed on the artists that nothing was chosen on."""

from collections.abc import Sequence

import numpy as np

from benchmarks.emoji.differences import TYPES
from benchmarks.emoji.settings import CONFIRMING_ARTISTS, FROM_SCRATCH, REAL_TOWERS, STUDIES, WIDE, place_name
from benchmarks.emoji.tail import EMBED
from benchmarks.emoji.towers import SIDE, UNLOCKED
from benchmarks.emoji.wheels import IMAGE_TOWER, TEXT_TOWER
from benchmarks.study.intervals import holm, interval, within_blocks
from benchmarks.study.models import Arm
from benchmarks.study.results import Results
from benchmarks.study.settings import CONTROLS, MCL
from benchmarks.study.tables import points, table
from benchmarks.study.units import CONCAT, FITTED, FUSIONS, LAST_ALONE

SECONDARY = {"known": "zero-shot, known captions", "unseen": "zero-shot, unseen", "retrieval": "retrieval"}
ABOUT = {
    FROM_SCRATCH: (
        "32 pixels, the demo's small convolutional tower and one layer of text, both from random weights. "
        f"{WIDE[0].upper()}{WIDE[1:]}: towers and embeddings of twice the cost, trained for half as many epochs."
    ),
    REAL_TOWERS: (
        f"{SIDE} pixels, two towers that were trained elsewhere: {IMAGE_TOWER.credit}; {TEXT_TOWER.credit} (both "
        f"{IMAGE_TOWER.licence}). Together they are no pretrained CLIP: projections to {EMBED} numbers are trained "
        f"first, then the last {UNLOCKED} of the image tower's 7 groups of blocks too; the text tower stays as it is, "
        "from stage 1 on with its projection. What the locked blocks say is computed once."
    ),
}


def confirmed(results: Results, study: str) -> str:
    """The section of one study: primary comparisons, then all that is secondary."""
    title = f"## Confirming, {study}\n\n{ABOUT[study]}\n\n"
    chosen = STUDIES[study].chosen
    if chosen is None:
        return f"{title}Nothing is chosen yet, so nothing is confirmed.\n"
    arms = chosen.arms()
    places = [place_name(study, artist) for artist in CONFIRMING_ARTISTS]
    blocks = {name: _gaps(results, arms, name, places) for name in CONTROLS}
    if any(len(block) < 2 for found in blocks.values() for block in found):
        return f"{title}Not all runs are there yet; `make study-emoji` goes on.\n"
    counts = (min(map(len, place)) for place in zip(*blocks.values(), strict=True))
    seeds = ", ".join(f"{artist} {count}" for artist, count in zip(CONFIRMING_ARTISTS, counts, strict=True))
    text = (
        f"{title}MCL, fused by concatenation, minus each control at equal compute: mean pair accuracy in points; "
        f"seeds: {seeds}. Intervals are over seeds within artists, simultaneous by Holm over these four comparisons; "
        "the deviation is that of the difference over seeds, within artists. All else is secondary.\n\n"
    )
    estimates = {name: within_blocks(each) for name, each in blocks.items()}
    found = holm(estimates)
    rows = [
        [
            name,
            points(found[name]),
            found[name].verdict,
            f"{100 * estimates[name].deviation:.1f}",
            *(points(interval(block)) for block in blocks[name]),
        ]
        for name in CONTROLS
    ]
    text += table(["MCL minus", "difference", "", "deviation", *CONFIRMING_ARTISTS], rows)
    return "\n".join(
        (
            text,
            _other_fusions(results, arms, places),
            _types(results, arms, places),
            "Every arm that has run on all artists, percent:\n\n" + _arms(results, arms, places),
        )
    )


def _other_fusions(results: Results, arms: dict[str, Arm], places: Sequence[str]) -> str:
    """MCL otherwise fused minus the controls."""
    text = (
        "Secondary: mean pair accuracy of MCL otherwise fused, minus each control as it is above, or both by weights "
        "fitted on captions set apart from training; intervals are not adjusted.\n\n"
    )
    rows = []
    for shown, fusion, less in (
        (f"{LAST_ALONE}, minus the control by {CONCAT}", LAST_ALONE, CONCAT),
        (f"{FITTED}, minus the control {FITTED}", FITTED, FITTED),
    ):
        gaps = [_gaps(results, arms, name, places, "pairs", fusion, less) for name in CONTROLS]
        rows.append([f"MCL, {shown}", *(points(within_blocks(each).interval()) for each in gaps)])
    return text + table(["", *CONTROLS], rows)


def _types(results: Results, arms: dict[str, Arm], places: Sequence[str]) -> str:
    """Where MCL is ahead, and where behind."""
    text = "Secondary: MCL minus each control by what the pairs differ in, both concatenated; not adjusted either.\n\n"
    rows = []
    for kind in TYPES:
        gaps = [_gaps(results, arms, name, places, f"pairs {kind}") for name in CONTROLS]
        gaps = [[block for block in each if len(block) > 1] for each in gaps]  # an artist may have no such pair
        rows.append([kind, *(points(within_blocks(each).interval()) if each else "-" for each in gaps)])
    return text + table(["pairs", *CONTROLS], rows)


def _gaps(
    results: Results,
    arms: dict[str, Arm],
    control: str,
    places: Sequence[str],
    measure: str = "pairs",
    fusion: str = CONCAT,
    less: str = "",
) -> list[list[float]]:
    """Differences of MCL and a control by seed, a list a place."""
    return [
        list(results.differences(arms[MCL], arms[control], place, measure, fusion, less).values()) for place in places
    ]


def _arms(results: Results, arms: dict[str, Arm], places: Sequence[str]) -> str:
    rows = []
    for arm in (arm for arm in arms.values() if all(results.scores(arm, place) for place in places)):
        for fusion in FUSIONS:
            values = [mean_of(results, arm, places, measure, fusion) for measure in ("pairs", *SECONDARY)]
            values += [mean_of(results, arm, places, f"pairs {kind}", fusion) for kind in TYPES]
            if values[0]:
                name = arm.name if len(arm.models) == 1 else f"{arm.name}, {fusion}"
                rows.append([name, *(each or "-" for each in values)])
    return table(["arm", "pairs", *SECONDARY.values(), *TYPES], rows)


def mean_of(results: Results, arm: Arm, places: Sequence[str], measure: str, fusion: str) -> str:
    """Percent, the mean over places of those over seeds; empty where nothing has run."""
    blocks = [list(results.scores(arm, place, measure, fusion).values()) for place in places]
    blocks = [block for block in blocks if block]
    return f"{100 * np.mean([np.mean(block) for block in blocks]):.1f}" if blocks else ""
