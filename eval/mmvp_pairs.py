"""Every pair of an MMVP run: as a table of numbers, and as pictures with right and wrong marked."""

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment
from PIL import Image

from eval.mmvp_data import Pair
from eval.pairs import PairScores
from mcl_clip.artifacts import atomic_path

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>MMVP pairs</title>
<style>body{font:15px/1.4 system-ui,sans-serif;margin:1.5rem;max-width:70rem}
.pair{display:inline-block;vertical-align:top;border:1px solid #ccc;border-radius:8px;padding:.6rem;margin:.3rem}
img{width:128px;height:128px;object-fit:contain;background:#eee}figure{display:inline-block;margin:.2rem;width:130px}
figcaption{font-size:.85em}.right{color:#11723b}.wrong{color:#b3261e}td,th{padding:.1rem .5rem;text-align:left}
</style><h1>MMVP pairs</h1>
<p>A text is right when it is closer to its own image than to the other one. Shown: {{ rows|join(", ") }}.</p>
{% for type, pairs in types.items() %}<h2>{{ type }}</h2>
{% for pair in pairs %}<div class="pair">{% for image in pair.images %}<figure><img alt="{{ image.statement }}"
src="data:image/jpeg;base64,{{ image.data }}"><figcaption>{{ image.id }}: {{ image.statement }}</figcaption></figure>{% endfor %}
<table>{% for row in pair.rows %}<tr><th>{{ row.name }}</th>{% for hit in row.hits %}<td class="{{ 'right' if hit else 'wrong' }}">{{ '✓' if hit else '✗' }} text {{ loop.index }}</td>{% endfor %}</tr>{% endfor %}</table></div>
{% endfor %}{% endfor %}</html>
"""


def write_csv(path: str | Path, pairs: Sequence[Pair], scores: Mapping[str, PairScores]) -> None:
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


def write_html(path: str | Path, pairs: Sequence[Pair], scores: Mapping[str, PairScores]) -> None:
    """A self-contained page of all pairs by Type, for the first stage and the last row (the fused model)."""
    shown = list(dict.fromkeys((next(iter(scores)), list(scores)[-1])))
    types: dict[str, list[dict]] = {}
    for index, pair in enumerate(pairs):
        images = [
            {"id": number, "statement": statement, "data": _thumbnail(image)}
            for number, statement, image in zip(pair.ids, pair.statements, pair.images, strict=True)
        ]
        rows = [{"name": name, "hits": scores[name].correct[index].tolist()} for name in shown]
        types.setdefault(pair.type, []).append({"images": images, "rows": rows})
    page = Environment(autoescape=True).from_string(_PAGE).render(types=types, rows=shown)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _thumbnail(path: Path) -> str:
    buffer = io.BytesIO()
    with Image.open(path) as image:
        small = image.convert("RGB")
        small.thumbnail((256, 256))
        small.save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()
