"""What a run's scores say in plain words, gains and their absence alike."""

from collections.abc import Sequence
from typing import Any

PAIR = "pair_accuracy"


def verdict(pairs: Sequence[dict[str, Any]]) -> list[str]:
    """Sentences on the rows of an MMVP scores file: what the fused model gained over stage 0, and where."""
    rows = {each["model"]: each for each in pairs}
    if not {"stage_0", "fused"} <= set(rows):
        return []
    base, fused = rows["stage_0"]["metrics"], rows["fused"]["metrics"]
    said = [
        f"The fused model gets {_percent(fused[PAIR])} of the pairs right, stage 0 alone {_percent(base[PAIR])}: "
        + _gain(rows["fused"], "gain", "this run does not show that the fused model is better.")
    ]
    weakest = min(types_of(pairs), key=lambda name: base[f"{PAIR}/{name}"])
    before, after = (_percent(each[f"{PAIR}/{weakest}"]) for each in (base, fused))
    said.append(
        f"Stage 0 suppressed {weakest} most ({before}); the fused model reaches {after}: "
        + _gain(rows["fused"], f"gain/{weakest}", "this run does not show that the feature was recovered.")
    )
    best = max(
        (each for name, each in rows.items() if name.startswith("stage_")), key=lambda each: each["metrics"][PAIR]
    )
    if best["metrics"][PAIR] > fused[PAIR]:
        said.append(f"{best['model']} alone is above the fused model, with {_percent(best['metrics'][PAIR])}.")
    return said


def types_of(pairs: Sequence[dict[str, Any]]) -> list[str]:
    """The Types of an MMVP scores file; what the first row sees least comes first."""
    metrics = pairs[0]["metrics"]
    names = [name for name in metrics if name.startswith(f"{PAIR}/")]
    return [name.removeprefix(f"{PAIR}/") for name in sorted(names, key=metrics.__getitem__)]


def _gain(row: dict[str, Any], name: str, doubt: str) -> str:
    """+2.9 points (95 % interval +1.0 to +4.8, paired over the pairs), and the doubt where the interval leaves one."""
    low, high = row["intervals"][name]
    ends = f"95 % interval {100 * low:+.1f} to {100 * high:+.1f}, paired over the pairs"
    return f"{100 * row['metrics'][name]:+.1f} points ({ends})" + ("." if low > 0 else f"; {doubt}")


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
