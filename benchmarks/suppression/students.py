"""The section of the page on one model that stands for all stages: a student, a soup, a longer run."""

import numpy as np

from benchmarks.study.intervals import interval
from benchmarks.study.models import Arm
from benchmarks.study.results import Results
from benchmarks.study.settings import LONGER, MCL, SOUP, STUDENT
from benchmarks.study.tables import percent, points, table
from benchmarks.study.units import CONCAT, LAST_ALONE
from benchmarks.suppression.measures import MEASURES
from benchmarks.suppression.plots import TITLES
from benchmarks.suppression.sections import measures_with, title
from benchmarks.suppression.settings import CHOOSING_SEEDS, CHOSEN, STUDENT_TRIES, tried_students
from benchmarks.suppression.summary import PLACE, differences, values_of

TEXT = """## All stages for the price of one

One model instead of three: a student that starts from MCL's last stage and learns the similarities of all stages, fused
by concatenation, for one more share of compute; the mean of the stages' weights; one long run with that share added.
The fused model and its last stage stand beside them. Percent, seeds as there are ({seeds} of the student).

{rows}
The student minus each, paired by seed, points:

{gaps}"""
TRIED = """
How it learns was chosen on seed {seeds} (chosen: rate {rate:g}, a share {ordinary:g} of the samples with ordinary
negatives, own loss {contrastive:g} times), where the fused model has {fused}. Means over features, percent; "-" was not
run:

{rows}"""


def one_tower(results: Results, hidden: str) -> str:
    """Student, soup and the longer run beside MCL; nothing before the first student."""
    arms = CHOSEN.one_tower()
    student, mcl, measures = arms[STUDENT], CHOSEN.arms()[MCL], measures_with(hidden)
    stages = CHOSEN.stages + 1
    shown: list[tuple[str, Arm, str, float, int]] = [
        ("MCL, concat", mcl, CONCAT, float(stages), stages),
        ("MCL, last stage alone", mcl, LAST_ALONE, 1.0, stages),
        (SOUP, arms[SOUP], CONCAT, 1.0, stages),
        (STUDENT, student, CONCAT, 1.0, stages + CHOSEN.student_shares),
        (LONGER, arms[LONGER], CONCAT, 1.0, stages + CHOSEN.student_shares),
    ]
    seeds = len(values_of(results, student, measures[0]))
    if not seeds:
        return ""
    rows, gaps = [], []
    for name, arm, fusion, towers, shares in shown:
        values = [values_of(results, arm, measure, fusion) for measure in measures]
        if values[0]:
            rows.append([name, f"{towers:.1f}", str(shares), *(percent(interval(each)) for each in values)])
        if arm is not student and values[0]:
            found = (differences(results, student, arm, measure, less=fusion) for measure in measures)
            gaps.append([name, *(points(interval(each)) if each else "-" for each in found)])
    titles = [title(measure) for measure in measures]
    text = TEXT.format(
        seeds=seeds, rows=table(["", "towers", "shares", *titles], rows), gaps=table(["student minus", *titles], gaps)
    )
    return text + _tried(results, mcl)


def _tried(results: Results, mcl: Arm) -> str:
    def means(arm: Arm) -> list[str]:
        found = [results.scores(arm, PLACE, f"{measure} mean") for measure in MEASURES]
        values = [[each[seed] for seed in CHOOSING_SEEDS if seed in each] for each in found]
        return [f"{100 * np.mean(each):.1f}" if each else "-" for each in values]

    fused = ", ".join(f"{value} {TITLES[measure]}" for measure, value in zip(MEASURES, means(mcl), strict=True))
    rows = [[name, *means(tried_students()[name])] for name in STUDENT_TRIES]
    return TRIED.format(
        seeds=", ".join(map(str, CHOOSING_SEEDS)),
        rate=CHOSEN.student_lr,
        ordinary=CHOSEN.student_ordinary,
        contrastive=CHOSEN.student_contrastive,
        fused=fused,
        rows=table(["student", *(TITLES[measure] for measure in MEASURES)], rows),
    )
