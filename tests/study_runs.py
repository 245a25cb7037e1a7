"""Invented runs of a study, for the tests of its page."""

import json
from pathlib import Path

from benchmarks.study.models import Arm
from benchmarks.study.place import Place


def invent(place: Place, arm: Arm, scores: dict[str, float], fusions: tuple[str, ...], seconds: float, **more) -> None:
    """Scores of an arm, the same under all `fusions`; `more` stands in the record too."""
    facts = {"training_seconds": seconds, "embedding_seconds": seconds / 20, "clustering_seconds": seconds / 40}
    record = {
        "place": place.name,
        "seed": place.seed,
        "arm": arm.name,
        "key": arm.key,
        "facts": [facts] * len(arm.models),
        "scores": dict.fromkeys(fusions[:1] if len(arm.models) == 1 else fusions, scores),
        **more,
    }
    path: Path = place.scored(arm)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
