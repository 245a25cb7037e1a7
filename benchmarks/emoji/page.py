"""docs/study-emoji/README.md, written from the results alone."""

from pathlib import Path

import numpy as np

from benchmarks.emoji.confirmed import SECONDARY, confirmed, mean_of
from benchmarks.emoji.differences import TYPES
from benchmarks.emoji.packages import ARTISTS, DRAWN
from benchmarks.emoji.settings import (
    CHOOSING_ARTIST,
    CHOOSING_SEEDS,
    RATE_OF,
    STUDIES,
    place_name,
)
from benchmarks.study.intervals import Interval, interval
from benchmarks.study.results import Results, every_run, read_results
from benchmarks.study.settings import BASE, LONG, LONGER, MCL, SOUP, STUDENT
from benchmarks.study.summary import rates
from benchmarks.study.tables import percent, points, table
from benchmarks.study.units import CONCAT, LAST_ALONE
from mcl_clip.artifacts import atomic_path, read_json, write_json

COSTS = "cost.json"
INTRODUCTION = """# Real drawings: MCL against controls of equal compute

Written by `python -m benchmarks.emoji report` from `units/`, one file an arm, artist and seed; every number below is
measured. `make study-emoji` fetches the drawings, trains what is missing and writes this page again.

Emoji of five artists, with Unicode's names as captions, 32 pixels, held in memory: a model trains on four artists and
is scored on the fifth, of whom it has seen nothing. *Pairs* are two drawings of one package that differ in one thing;
both captions must pick their own (MMVP's measure, chance 25 %), and the types ({types}) are averaged, so that common
ones do not count for more. {choosing} is for choosing settings, on seeds from 100 on; no claim is made on it. The other
artists are fixed blocks, looked at once, and intervals are over seeds within artists.

{figure}
{credits}
"""


def write_page(directory: Path) -> None:
    """Write README.md and results.json from `directory`/units."""
    results = read_results(directory / "units")
    figure = "![One pair of every type](pairs.png)\n" if (directory / "pairs.png").is_file() else ""
    credits_ = "; ".join(f"{artist}: {_credit(artist)}" for artist in ARTISTS)
    parts = [
        INTRODUCTION.format(
            types=", ".join(kind.lower() for kind in TYPES),
            choosing=CHOOSING_ARTIST,
            figure=figure,
            credits=f"Drawings: {credits_}.",
        ),
        *(part(results, name) for name in STUDIES for part in (confirmed, _tries, _rates)),
        _costs(directory / COSTS),
        *(_one_tower(results, name) for name in STUDIES),
        _all_runs(results),
    ]
    write_json(
        directory / "results.json",
        [
            {name: run.record[name] for name in ("place", "seed", "arm", "key", "scores")}
            for _, run in sorted(results.runs.items())
        ],
    )
    with atomic_path(directory / "README.md") as temporary:
        temporary.write_text("\n".join(filter(None, parts)).rstrip() + "\n", encoding="utf-8")


def _credit(artist: str) -> str:
    own = [package for package in DRAWN if package.name in ARTISTS[artist]]
    return ", ".join(f"{package.credit} ({package.licence})" for package in own)


def _tries(results: Results, study: str) -> str:
    text = (
        f"## Choosing, {study}\n\nMean pair accuracy on {CHOOSING_ARTIST}, percent, and the difference of MCL (concat) "
        "and one long run of the same compute, in points; its standard deviation over seeds says how sharp the measure "
        f"is. A try runs on seed {CHOOSING_SEEDS[0]}, what was taken ({STUDIES[study].rule!r}) on all choosing seeds; "
        "what has no runs has no numbers.\n\n"
    )
    rows, place = [], place_name(study, CHOOSING_ARTIST)
    for name in STUDIES[study].tries:
        arms = STUDIES[study].tried(name)
        gaps = list(results.differences(arms[MCL], arms[LONG], place).values())
        spread = f"{100 * np.std(gaps, ddof=1):.1f}" if len(gaps) > 1 else "-"
        means = [list(results.scores(arms[arm], place).values()) for arm in (BASE, LONG, MCL)]
        rows.append(
            [
                name,
                str(len(gaps)),
                *(percent(Interval(float(np.mean(each)), None)) if each else "-" for each in means),
                points(interval(gaps)) if gaps else "-",
                spread,
            ]
        )
    return text + table(["try", "seeds", BASE, LONG, MCL, "MCL minus long run", "its deviation"], rows)


def _rates(results: Results, name: str) -> str:
    study = STUDIES[name]
    tried, seeds = study.rated(), CHOOSING_SEEDS[:1]
    chosen = {arm: getattr(study.chosen, RATE_OF[arm]) for arm in tried} if study.chosen else {}
    rows, edge = rates(results, tried, chosen, seeds, place_name(name, CHOOSING_ARTIST), "pairs")
    return (
        f"Every arm's own rate, of its further stages (of all of it for the long run and the ensemble), all else as "
        f"{study.rule!r}: mean pair accuracy on {CHOOSING_ARTIST}, seed {seeds[0]}, percent, the chosen one in bold. "
        f"At the edge of what was tried: {edge}.\n\n{rows}"
    )


def _costs(path: Path) -> str:
    """Of the real towers' stages; empty where nothing was measured."""
    if not path.is_file():
        return ""
    found = read_json(path)
    text = (
        f"## What locked towers save\n\n`python -m benchmarks.emoji cost`: the {found[0]['stages']} stages of MCL, "
        f"real towers, seed {found[0]['seed']}, as whole open_clip models that read images and tokens. Cost in units "
        "of one stage's, measured in turn, one thread, means over the artists; pair accuracy in percent. The "
        f"fused directory has {np.mean([each['disk'] for each in found]):.2f} times the bytes of a stage's.\n\n"
    )
    rows = []
    for name in found[0]["variants"]:
        variants = [each["variants"][name] for each in found]
        costs = [f"{np.mean([each[side] for each in variants]):.2f}" for side in ("image", "text")]
        rows.append([name, *costs, str(variants[0]["numbers"]), *(f"{100 * each['pairs']:.1f}" for each in variants)])
    return text + table(["", "image", "text", "numbers", *(each["artist"] for each in found)], rows)


def _one_tower(results: Results, study: str) -> str:
    """What has run of it; empty where nothing has."""
    place, rows = place_name(study, CHOOSING_ARTIST), []
    for name in STUDIES[study].tries:
        arms = STUDIES[study].tried(name, one_tower=True)
        fusions = {f"{MCL}, {CONCAT}": (arms[MCL], CONCAT), f"{MCL}, {LAST_ALONE}": (arms[MCL], LAST_ALONE)}
        for shown, (arm, fusion) in (
            fusions | {each: (arms[each], CONCAT) for each in (STUDENT, SOUP, LONGER)}
        ).items():
            seeds = set(results.scores(arm, place, "pairs", fusion)) if results.scores(arms[STUDENT], place) else set()
            if seeds:
                values = [mean_of(results, arm, [place], measure, fusion) for measure in ("pairs", *SECONDARY)]
                rows.append([name, shown, str(len(seeds)), *(each or "-" for each in values)])
    if not rows:
        return ""
    text = (
        f"## All stages for the price of one, {study}\n\n`python -m benchmarks.emoji one-tower`, on {CHOOSING_ARTIST}, "
        "percent: a student of MCL's stages (one share of compute more), the mean of their weights, and one long run "
        "with the student's share added.\n\n"
    )
    return text + table(["try", "arm", "seeds", "pairs", *SECONDARY.values()], rows)


def _all_runs(results: Results) -> str:
    rows = every_run(results, ("pairs", *SECONDARY))
    text = (
        "## Every run\n\nFused by concatenation, percent; what it was made of stands in `units/`. To train all of "
        f"these took {results.hours:.1f} hours of one core.\n\n"
    )
    return text + table(["arm", "artist", "seed", "pairs", *SECONDARY.values(), "training, s of one core"], rows)
