"""What the page asks of the results: values over the study's seeds, and differences paired by seed."""

from typing import Any

from benchmarks.images.measures import MEASURES, PROBE
from benchmarks.images.settings import CHOSEN, SEEDS
from benchmarks.images.trifeature import FEATURES
from benchmarks.study.intervals import Interval, holm, within_blocks
from benchmarks.study.results import Results
from benchmarks.study.settings import CONTROLS, MCL
from benchmarks.study.summary import Summary

PLACE = "trifeature"


SUMMARY = Summary(PLACE, SEEDS, CHOSEN.arms(), PROBE, tuple(FEATURES))
values_of, differences, suppressed = SUMMARY.values_of, SUMMARY.differences, SUMMARY.suppressed
finished, arms_of = SUMMARY.finished, SUMMARY.arms_of


def primary(results: Results) -> dict[tuple[str, str], tuple[Interval, list[float]]]:
    """{(feature or "mean", control): MCL minus the control, simultaneously under Holm, and each seed's difference}."""
    arms = CHOSEN.arms()
    gaps = {
        (feature, name): differences(results, arms[MCL], arms[name], f"{PROBE} {feature}")
        for feature in ("mean", suppressed(results))
        for name in CONTROLS
    }
    found = holm({" ".join(key): within_blocks([gap]) for key, gap in gaps.items()})
    return {key: (found[" ".join(key)], gap) for key, gap in gaps.items()}


def headline(results: Results) -> dict[str, Any]:
    """The study in one flat object."""
    hidden = suppressed(results)
    found: dict[str, Any] = {"seeds": len(SEEDS), "suppressed": hidden}
    for (feature, control), (difference, _) in primary(results).items():
        found[f"{MCL} minus {control} | {PROBE} {feature}"] = difference.verdict
    return found | SUMMARY.means(results, MEASURES, hidden)
