"""Every pair as pictures, with what one model or two pick: a self-contained page."""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.data.images import file_sample
from eval.data.mmvp import MMVPPair
from eval.report.pages import TEMPLATES
from eval.scores import percent
from eval.tasks.comparison import Comparison, compare
from eval.tasks.pair_choices import Choices
from mcl_clip.artifacts import atomic_path

WORDS = {"gained": "gained", "lost": "lost", "both": "right in both", "neither": "wrong in both"}
KINDS = {(False, True): "gained", (True, False): "lost", (True, True): "both", (False, False): "neither"}
ALONE = WORDS | {"both": "right", "neither": "wrong"}


def write_page(path: str | Path, pairs: Sequence[MMVPPair], first: Choices, second: Choices, lead: str) -> None:
    """All pairs by Type, to be filtered by Type and by what changed; of one model where both are one and the same."""
    hits = [each.pair_right.astype(bool).tolist() for each in (first, second)]
    kinds = [KINDS[before, after] for before, after in zip(*hits, strict=True)]
    types: dict[str, list[dict[str, Any]]] = {}
    for index, pair in enumerate(pairs):
        shown = [
            {"id": number, "statement": statement, "data": _thumbnail(image)}
            for number, statement, image in zip(pair.ids, pair.statements, pair.images, strict=True)
        ]
        rows = [_choices(each, index) for each in ((first,) if first is second else (first, second))]
        types.setdefault(pair.type, []).append({"images": shown, "rows": rows, "kind": kinds[index]})
    found = Counter(kinds)
    page = TEMPLATES.get_template("pairs.html.j2").render(
        lead=lead,
        first=first.name,
        second=None if first is second else second.name,
        types=types,
        summary=[_summary(each) for each in compare(first.pair_right, second.pair_right, [p.type for p in pairs])],
        kinds={kind: found[kind] for kind in WORDS if found[kind]},
        words=ALONE if first is second else WORDS,
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def signed(value: float) -> str:
    """A difference of fractions in points."""
    return f"{100 * value:+.1f}"


def p_text(value: float) -> str:
    """A p-value with three decimals."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _choices(side: Choices, index: int) -> dict[str, Any]:
    ids = side.ids[index]
    texts = zip(side.picked[index], side.right[index], strict=True)
    return {"name": side.name, "texts": [{"choice": ids[choice], "right": bool(hit)} for choice, hit in texts]}


def _summary(each: Comparison) -> dict[str, Any]:
    return {
        "type": each.type,
        "pairs": each.pairs,
        "shares": [percent(count / each.pairs) for count in (each.first, each.second)],
        "won": each.won,
        "lost": each.lost,
        "difference": signed(each.difference),
        "interval": " to ".join(map(signed, each.interval)),
        "p_value": p_text(each.p_value),
    }


def _thumbnail(path: Path) -> str:
    buffer = io.BytesIO()
    small = file_sample(path).image()
    small.thumbnail((256, 256))
    small.save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()
