"""What a run left out, step by step, from the records that its steps wrote."""

from collections.abc import Iterator
from pathlib import Path

from eval.report.run_facts import stage_directories
from mcl_clip import left_out
from mcl_clip.artifacts import read_json


def read_left_out(run: Path) -> list[tuple[str, str]]:
    """(step, what it left out in one line) of every step of a run directory that left something out, in order."""
    return [(step, line) for step, record in _records(run) if (line := left_out.line(record))]


def _records(run: Path) -> Iterator[tuple[str, left_out.Record]]:
    yield "index", _read(run / "source" / "manifest.json").get("left_out", {})
    for directory in stage_directories(run).values():
        stage = directory.name.replace("_", " ")
        yield f"buckets of {stage}", _read(directory / "buckets" / "manifest.json").get("left_out", {})
        training = _read(directory / "left_out.json")
        yield f"an epoch of {stage}", training.get("plan", {})
        yield f"reading of {stage}", training.get("reading", {})
        failed = _read(directory / "clusters" / "clusters.json").get("failed", {})
        if failed.get("count"):
            first = ["/".join(sample) for sample in failed.get("first", [])[: left_out.FIRST]]
            yield f"clusters of {stage}", {"failed": {"count": failed["count"], "first": first}}


def _read(path: Path) -> dict:
    return read_json(path) if path.is_file() else {}
