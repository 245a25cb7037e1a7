"""Every pair of an MMVP run: as a table of numbers, and as pictures with right and wrong marked."""

import base64
import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.data.images import file_sample
from eval.data.mmvp import MMVPPair
from eval.report.pages import TEMPLATES
from eval.tasks.pair_similarities import PairSimilarities
from mcl_clip.artifacts import atomic_path

WORDS = {"gained": "gained", "lost": "lost", "both": "right in both", "neither": "wrong in both"}
KINDS = {(False, True): "gained", (True, False): "lost", (True, True): "both", (False, False): "neither"}
ALONE = WORDS | {"both": "right", "neither": "wrong"}


def write_csv(path: str | Path, pairs: Sequence[MMVPPair], scores: Mapping[str, PairSimilarities]) -> None:
    """One line a row of the model and pair: ids, statements, similarities, choices, whether the pair counts."""
    header = ["model", "type", "id_1", "id_2", "statement_1", "statement_2"]
    header += ["sim_text1_image1", "sim_text1_image2", "sim_text2_image1", "sim_text2_image2"]
    header += ["choice_1", "choice_2", "correct"]
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for name, each in scores.items():
            for index, pair in enumerate(pairs):
                similarities = [f"{value:.6f}" for value in each.text_image[index].ravel()]
                choices = [pair.ids[choice] for choice in each.choices[index]]
                correct = int(each.correct[index].all())
                writer.writerow([name, pair.type, *pair.ids, *pair.statements, *similarities, *choices, correct])


def write_html(
    path: str | Path, pairs: Sequence[MMVPPair], scores: Mapping[str, PairSimilarities], name: str = "MMVP"
) -> None:
    """A self-contained page of all pairs by Type; marked are the first row (stage 0) and the last (the fused model)."""
    first, last = next(iter(scores)), list(scores)[-1]
    hits = [scores[row].pair_correct.astype(bool).tolist() for row in (first, last)]
    kinds = [KINDS[before, after] for before, after in zip(*hits, strict=True)]
    types: dict[str, list[dict[str, Any]]] = {}
    for index, pair in enumerate(pairs):
        shown = [
            {"id": number, "statement": statement, "data": _thumbnail(image)}
            for number, statement, image in zip(pair.ids, pair.statements, pair.images, strict=True)
        ]
        rows = [_choices(row, pair, scores[row], index) for row in dict.fromkeys((first, last))]
        types.setdefault(pair.type, []).append({"images": shown, "rows": rows, "kind": kinds[index]})
    found = Counter(kinds)
    page = TEMPLATES.get_template("pairs.html.j2").render(
        name=name,
        first=first,
        last=last,
        types=types,
        summary=[_summary(kind, [each["kind"] for each in members]) for kind, members in types.items()],
        kinds={kind: found[kind] for kind in WORDS if found[kind]},
        words=WORDS if first != last else ALONE,
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _choices(row: str, pair: MMVPPair, scores: PairSimilarities, index: int) -> dict[str, Any]:
    texts = zip(pair.ids, scores.choices[index], scores.correct[index], strict=True)
    return {
        "name": row,
        "texts": [{"id": number, "choice": pair.ids[choice], "right": bool(hit)} for number, choice, hit in texts],
    }


def _summary(kind: str, kinds: list[str]) -> dict[str, Any]:
    found = Counter(kinds)
    first, last = found["both"] + found["lost"], found["both"] + found["gained"]
    counts = {"pairs": len(kinds), "first": first, "last": last, "gained": found["gained"], "lost": found["lost"]}
    return {"type": kind, **counts}


def _thumbnail(path: Path) -> str:
    buffer = io.BytesIO()
    small = file_sample(path).image()
    small.thumbnail((256, 256))
    small.save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()
