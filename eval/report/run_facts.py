"""What a report shows, read from a run directory; no drawing here."""

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from eval.scores import SUITE, read_scores
from mcl_clip.artifacts import read_json
from mcl_clip.clustering.information import attribute_information
from mcl_clip.errors import UserError
from mcl_clip.fusion.files import is_fused, read_fused_config
from mcl_clip.shards.manifest import Manifest

ATTRIBUTE_SAMPLES = 20_000
STUDENT = "student"
"""The run below a run, and its row."""
STAGE = re.compile(r"stage_\d+")
SCORED_ON = ("task", "data_revision", "train_revision", "limit")


@dataclass(frozen=True)
class Clustering:
    """One clustering step: its clusters.json, and encoded sample images [cluster][nearest, random][example]."""

    stage: int
    facts: dict[str, Any]
    examples: list[list[list[bytes]]]
    attributes: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RunFacts:
    """Everything a report is made of. `scores`: the results of every scores file, by its name without .json.

    failed: why there are no scores of a task, by its name, or none of the student. fused: the fused model's
    `mcl_config.json`.
    """

    name: str
    recipe: dict[str, Any]
    scores: dict[str, list[dict[str, Any]]]
    losses: dict[int, list[dict[str, Any]]]
    clusterings: list[Clustering]
    failed: dict[str, str]
    fused: dict[str, Any]


def read_run(run: Path) -> RunFacts:
    """Read a run directory, or the output of mcl-eval; `UserError` when it is neither."""
    recipe = run / "recipe.yaml"
    scores = run / "scores" if recipe.is_file() else run
    if not recipe.is_file() and not (run / SUITE).is_file():
        raise UserError(f"{run} is neither a run directory (recipe.yaml) nor the output of mcl-eval ({SUITE})")

    own, of_student = _scores(scores), _scores(run / STUDENT / "scores")
    failed = {name: why for name, why in (_mapping(scores / SUITE).get("failed") or {}).items() if name not in own}
    if of_student and (unlike := _unlike(own, of_student)):
        failed = failed | {STUDENT: f"on other samples than the run, or not at all, in {', '.join(unlike)}"}
    stages = stage_directories(run)
    source = Manifest.load(run / "source") if (run / "source" / "manifest.json").is_file() else None
    return RunFacts(
        name=run.name,
        recipe=_mapping(recipe),
        scores=_with_student(own, of_student),
        losses={number: _metrics(stage / "metrics.jsonl") for number, stage in stages.items()},
        clusterings=[
            _clustering(number, stage / "clusters", source)
            for number, stage in stages.items()
            if (stage / "clusters" / "clusters.json").is_file()
        ],
        failed=failed,
        fused=read_fused_config(run / "fused") if is_fused(run / "fused") else {},
    )


def stage_directories(run: Path) -> dict[int, Path]:
    """stage_0, stage_1, ... of a run by number; stage_0.bak is none."""
    found = {int(path.name.removeprefix("stage_")): path for path in run.glob("stage_*") if STAGE.fullmatch(path.name)}
    return dict(sorted(found.items()))


def _scores(directory: Path) -> dict[str, list[dict[str, Any]]]:
    return {path.stem: read_scores(path) for path in sorted(directory.glob("*.json"))}


def _with_student(
    scores: dict[str, list[dict[str, Any]]], of_student: dict[str, list[dict[str, Any]]]
) -> dict[str, list[dict[str, Any]]]:
    """A row of the student behind those of the stages, where it was scored on all that they were."""
    if not of_student or _unlike(scores, of_student):
        return scores
    return {
        name: [*results, *({**each, "model": STUDENT} for each in of_student[name][:1])]
        for name, results in scores.items()
        if results
    }


def _unlike(scores: dict[str, list[dict[str, Any]]], of_student: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Names of the run's scores files to which the student has none that was scored on the same samples."""
    return [name for name, results in scores.items() if _scored_on(results) != _scored_on(of_student.get(name, []))]


def _scored_on(results: list[dict[str, Any]]) -> list[Any]:
    return [results[0].get(key) for key in SCORED_ON] if results else []


def _mapping(path: Path) -> dict[str, Any]:
    """Of a YAML file, empty without one; `UserError` where it holds something else."""
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} cannot be read: it holds no mapping")
    return content


def _metrics(path: Path) -> list[dict[str, Any]]:
    """Rows by step; after a resume the last word on a step counts."""
    if not path.is_file():
        return []
    rows: dict[int, dict[str, Any]] = {}
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
            rows[int(row["step"])] = row
        except (ValueError, KeyError):
            continue
    return [rows[step] for step in sorted(rows) if "loss" in rows[step]]


def _clustering(stage: int, directory: Path, source: Manifest | None) -> Clustering:
    facts = read_json(directory / "clusters.json")
    if source is None:
        return Clustering(stage, facts, [])
    try:
        return Clustering(stage, facts, _examples(facts, source), _attributes(directory, source))
    except (OSError, UserError):  # the tars have moved: the numbers are worth a report without pictures
        return Clustering(stage, facts, [])


def _examples(facts: dict[str, Any], source: Manifest) -> list[list[list[bytes]]]:
    places = {name: number for number, name in enumerate(source.shard_names)}

    def image(shard: str, key: str) -> bytes:
        rows = source.open_shard(places[shard])
        return rows.read_image(rows.keys.index(key))

    return [
        [[image(*sample) for sample in cluster[kind]] for kind in ("nearest", "random")]
        for cluster in facts["examples"]
    ]


def _attributes(directory: Path, source: Manifest) -> dict[str, float]:
    """Share of each known feature's information that the clusters hold: normalised mutual information.

    Known are the string fields of the samples' .json that take between 2 and 32 values; img2dataset's own are not.
    """
    found: dict[tuple[str, str], dict[str, str]] = {}
    for number, shard in enumerate(source.shard_names):
        if len(found) >= ATTRIBUTE_SAMPLES:
            break
        for key, record in _records(source.tars.paths[number]):
            found[shard, key] = {name: value for name, value in record.items() if isinstance(value, str)}
    values: dict[str, set[str]] = {}
    for record in found.values():
        for name, value in record.items():
            seen = values.setdefault(name, set())
            if len(seen) <= 32:
                seen.add(value)
    known = {name for name, seen in values.items() if 2 <= len(seen) <= 32}
    if not known:
        return {}
    chosen = {place: {name: record[name] for name in known if name in record} for place, record in found.items()}
    return {name: each["normalized"] for name, each in attribute_information(directory, chosen).items()}


def _records(tar: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(key, object) of every .json member."""
    with tarfile.open(tar) as members:
        for member in members:
            folder, _, base = member.name.rpartition("/")
            stem, _, extension = base.partition(".")
            file = members.extractfile(member) if extension == "json" else None
            if file is None:
                continue
            try:
                record = json.loads(file.read())
            except ValueError:
                continue
            if isinstance(record, dict):
                yield (f"{folder}/{stem}" if folder else stem), record
