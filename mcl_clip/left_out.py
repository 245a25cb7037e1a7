"""What a step leaves out: by reason a count and the first keys, for the log and for the record on disk."""

from collections.abc import Iterable
from typing import Any

FIRST = 5

Record = dict[str, dict[str, Any]]
"""{reason: {"count": how many, "first": up to FIRST keys}}; plain JSON."""


def note(record: Record, reason: str, keys: Iterable[str] = (), count: int = 1) -> None:
    """Add `count` more that are left out for `reason`."""
    entry = record.setdefault(reason, {"count": 0, "first": []})
    entry["count"] += count
    entry["first"] = [*entry["first"], *keys][:FIRST]


def add(record: Record, other: Record, prefix: str = "") -> None:
    """Add all of `other`, its keys with `prefix` before them."""
    for reason, entry in other.items():
        note(record, reason, [prefix + key for key in entry["first"]], entry["count"])


def line(record: Record, total: int | None = None) -> str:
    """All reasons in one line, the most frequent first, with their shares of `total`; empty when there are none."""
    entries = sorted(record.items(), key=lambda item: -item[1]["count"])
    return "; ".join(_phrase(reason, entry, total) for reason, entry in entries)


def _phrase(reason: str, entry: dict[str, Any], total: int | None) -> str:
    share = f" ({entry['count'] / total:.1%})" if total else ""
    more = ", ..." if entry["count"] > len(entry["first"]) else ""
    keys = f" ({', '.join(entry['first'])}{more})" if entry["first"] else ""
    return f"{entry['count']:,}{share} {reason}{keys}"
