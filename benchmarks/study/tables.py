"""Tables in Markdown."""

from collections.abc import Iterable, Sequence

from benchmarks.study.intervals import Interval


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The first column to the left, all others to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def percent(found: Interval) -> str:
    """A fraction in percent."""
    return f"{100 * found.mean:.1f}" + ("" if found.half is None else f" ± {100 * found.half:.1f}")


def points(found: Interval) -> str:
    """A difference of fractions in points."""
    return f"{100 * found.mean:+.1f}" + ("" if found.half is None else f" ± {100 * found.half:.1f}")
