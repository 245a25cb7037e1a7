"""The emoji study's report, from invented scores."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from benchmarks.emoji import page
from benchmarks.emoji.data import generate
from benchmarks.emoji.figure import draw_pairs
from benchmarks.emoji.settings import (
    CHOOSING_ARTIST,
    CONFIRMING_ARTISTS,
    CONFIRMING_SEEDS,
    FROM_SCRATCH,
    REAL_TOWERS,
    STUDIES,
)
from benchmarks.study.results import read_results
from benchmarks.study.settings import BASE, CONTROLS, LONG, LONGER, MCL, SHUFFLED, STUDENT, Settings
from benchmarks.study.units import FUSIONS
from tests.emoji_packages import packages

FIRST, SECOND = list(STUDIES[FROM_SCRATCH].tries)[:2]


def invent(directory, arm, artist, seed, pairs):
    """One run with a mean pair accuracy."""
    scores = {"pairs": pairs, "pairs Gender": pairs, "known": 0.1, "unseen": 0.2, "retrieval": 0.3}
    record = {
        "place": artist,
        "seed": seed,
        "arm": arm.name,
        "key": arm.key,
        "facts": [{"key": model.key, "training_seconds": 36.0} for model in arm.models],
        "scores": {"concat": scores} | (dict.fromkeys(FUSIONS[1:], scores) if len(arm.models) > 1 else {}),
    }
    path = directory / "units" / artist / f"seed_{seed}" / f"{arm.key}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))


def row_of(text, start):
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_tries_show_the_gap_and_how_sharp_it_is(tmp_path, monkeypatch):
    monkeypatch.setitem(page.STUDIES, REAL_TOWERS, replace(STUDIES[REAL_TOWERS], chosen=None))
    arms = STUDIES[FROM_SCRATCH].tried(FIRST)
    for seed, gap in ((100, 0.10), (101, 0.02)):
        invent(tmp_path, arms[BASE], CHOOSING_ARTIST, seed, 0.4)
        invent(tmp_path, arms[LONG], CHOOSING_ARTIST, seed, 0.5)
        invent(tmp_path, arms[MCL], CHOOSING_ARTIST, seed, 0.5 + gap)
    invent(tmp_path, arms[MCL], CHOOSING_ARTIST, 102, 0.9)
    page.write_page(tmp_path)
    text = (tmp_path / "README.md").read_text()
    found = row_of(text, FIRST)
    assert found[1:5] == ["2", "40.0", "50.0", "67.3"] and found[5].startswith("+6.0 ± ") and found[6] == "5.7"
    assert row_of(text, SECOND)[1:] == ["0", "-", "-", "-", "-", "-"]
    assert text.count(f"| {CHOOSING_ARTIST} | 10") == 7  # every run is shown, also the one without a partner
    assert len(json.loads((tmp_path / "results.json").read_text())) == 7
    assert "Twemoji by Twitter and contributors (CC-BY-4.0)" in text and "Nothing is chosen yet" in text


def test_one_tower_is_shown_beside_the_stages_it_comes_from(tmp_path):
    arms = STUDIES[FROM_SCRATCH].tried(FIRST, one_tower=True)
    assert LONG not in arms and arms[LONGER].epochs == arms[MCL].epochs + arms[STUDENT].epochs
    invent(tmp_path, arms[MCL], CHOOSING_ARTIST, 100, 0.6)
    page.write_page(tmp_path)
    assert "for the price of one" not in (tmp_path / "README.md").read_text()
    for name, pairs in ((STUDENT, 0.5), (LONGER, 0.4)):
        invent(tmp_path, arms[name], CHOOSING_ARTIST, 100, pairs)
    page.write_page(tmp_path)
    text = (tmp_path / "README.md").read_text().split("for the price of one")[1].split("## Every run")[0]
    rows = [line.split(" | ")[1:4] for line in text.splitlines() if line.startswith(f"| {FIRST}")]
    assert rows[:2] == [["MCL, concat", "1", "60.0"], ["MCL, last stage alone", "1", "60.0"]]
    assert rows[2:] == [[STUDENT, "1", "50.0"], [LONGER, "1", "40.0"]]


@pytest.mark.parametrize("whole", [True, False])
def test_confirming_compares_with_every_control_once_all_runs_are_there(tmp_path, monkeypatch, whole):
    chosen = replace(STUDIES[FROM_SCRATCH].settings, epochs=3)
    monkeypatch.setitem(page.STUDIES, FROM_SCRATCH, replace(STUDIES[FROM_SCRATCH], chosen=chosen))
    arms = chosen.arms()
    for place, artist in enumerate(CONFIRMING_ARTISTS):
        for seed in CONFIRMING_SEEDS:
            for name, arm in arms.items():
                gain = {MCL: 0.2, SHUFFLED: 0.3}.get(name, 0.0) + 0.01 * seed * (name == MCL)
                invent(tmp_path, arm, artist, seed, 0.1 * place + gain)
    if not whole:
        path = next((tmp_path / "units" / CONFIRMING_ARTISTS[0]).rglob(f"{arms[LONG].key}.json"))
        path.unlink()
        next((tmp_path / "units" / CONFIRMING_ARTISTS[0]).rglob(f"{arms[LONG].key}.json")).unlink()
    page.write_page(tmp_path)
    text = (tmp_path / "README.md").read_text()
    if not whole:
        assert "Not all runs are there yet" in text
        return
    assert f"seeds: {', '.join(f'{artist} 3' for artist in CONFIRMING_ARTISTS)}." in text
    for name in CONTROLS:
        found = row_of(text.split("Every arm that")[0], name)
        assert found[1].startswith("-8.0 ± " if name == SHUFFLED else "+22.0 ± ")
        assert found[2] == ("loses" if name == SHUFFLED else "wins") and found[3] == "1.0"
    secondary = text.split("Secondary: ")
    found = row_of(secondary[1], "MCL, last stage alone, minus the control by concat")
    assert found[1].startswith("+22.0 ± ") and len(found) == 1 + len(CONTROLS)
    assert row_of(secondary[2], "Gender")[4].startswith("-8.0 ± ") and row_of(secondary[2], "Hair")[1:] == ["-"] * 4
    assert row_of(text, "MCL, concat")[1:5] == ["37.0", "10.0", "20.0", "30.0"]


def test_differences_pair_seeds(tmp_path):
    arms = Settings().arms()
    invent(tmp_path, arms[MCL], "noto", 1, 0.5)
    invent(tmp_path, arms[MCL], "noto", 2, 0.7)
    invent(tmp_path, arms[LONG], "noto", 2, 0.4)
    results = read_results(tmp_path)
    assert results.scores(arms[MCL], "noto") == {1: 0.5, 2: 0.7}
    assert results.scores(arms[MCL], "noto", "pairs Hair") == {}
    assert results.hours == pytest.approx(0.07)  # a hundredth an hour: three stages on two seeds, one long run
    (gap,) = results.differences(arms[MCL], arms[LONG], "noto", fusion="mean-cosine").items()
    assert gap == (2, pytest.approx(0.3))


def test_the_figure_shows_what_there_is(tmp_path):
    drawn, names = packages(tmp_path / "npm")
    data = generate(tmp_path / "data", tmp_path / "npm", packages=drawn, names=names, processes=1)
    draw_pairs(tmp_path / "pairs.png", data, ["noto", "twemoji"])
    assert len(Image.open(tmp_path / "pairs.png").convert("RGB").getcolors(1 << 20)) > 20
