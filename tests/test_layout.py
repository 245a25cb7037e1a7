"""Files stay small, and the docs name what is there."""

import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARY = [path for folder in ("mcl_clip", "training", "eval", "demo") for path in (ROOT / folder).rglob("*.py")]
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMED = re.compile(r"(?<![\w/.-])((?:mcl_clip|training|eval|demo|benchmarks|tests|docs)/[\w/.-]*\w/?)")
LINKED = re.compile(r"\]\((?!https?:)([^)#\s]+)")


def test_no_file_of_the_library_is_long():
    lines = {path: len(path.read_text().splitlines()) for path in LIBRARY}
    assert not {str(path): count for path, count in lines.items() if count > 250}
    assert statistics.median(lines.values()) < 120


@pytest.mark.parametrize("doc", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_that_the_docs_name_exists(doc):
    text = doc.read_text()
    missing = {name for name in NAMED.findall(text) if not (ROOT / name).exists()}
    missing |= {name for name in LINKED.findall(text) if not (doc.parent / name).exists()}
    assert not missing
