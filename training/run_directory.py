"""The run directory: whose it is, what stands in it, and whether that is made of what we would make it of."""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from mcl_clip.artifacts import atomic_path
from mcl_clip.errors import UserError
from mcl_clip.models.stage_model import is_stage, read_stage_config
from training.recipe import Recipe
from training.recipe_file import differences, dump

RECIPE = "recipe.yaml"
FIRST = "start"  # what a student starts from
_DATA = ("source", "validation")
_WORTH_KEEPING = ("manifest.json", "tars/pack.json", "broken.jsonl")
_BEFORE_RECIPE = {*_DATA, FIRST}  # may stand in a directory whose recipe is not yet committed


class RunDirectory:
    """Paths of a run, as docs/formats.md lays them out."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.recipe, self.source, self.validation = root / RECIPE, root / "source", root / "validation"
        self.fused, self.fit = root / "fused", root / "fit"

    def stage(self, stage: int) -> Path:
        """stage_0, stage_1, ..."""
        return self.root / f"stage_{stage}"

    def model(self, stage: int) -> Path:
        """The stage's open_clip directory."""
        return self.stage(stage) / "model"

    def clusters(self, stage: int) -> Path:
        """The clusters of the stage's embeddings."""
        return self.stage(stage) / "clusters"

    def is_fixed(self, stage: int, setting: str) -> bool:
        """Whether something on disk depends on a setting of a stage: its model, or its clusters."""
        if setting == "clusters":
            return (self.clusters(stage) / "clusters.json").exists()
        return self.has_trained(stage)

    def has_trained(self, stage: int) -> bool:
        """Whether a stage has left a model or a checkpoint."""
        checkpoints = self.stage(stage) / "checkpoints"
        return self.model(stage).exists() or (checkpoints.is_dir() and any(checkpoints.glob("step_*.pt")))

    def buckets(self, stage: int) -> Path:
        """The buckets that the stage is trained on."""
        return self.stage(stage) / "buckets"


def claim(run: RunDirectory, recipe: Recipe) -> list[str] | None:
    """Make the directory ours, and write no recipe yet; returns what stood in it, None when its recipe did.

    Raises `UserError` when it cannot be written, holds something else, or a run of another recipe.
    """
    exists = run.root.exists()
    if exists and not run.root.is_dir():
        raise UserError(f"{run.root} is not a directory; choose another --name or --logs")
    if exists:
        _check_owner(run, recipe)
    before = None if run.recipe.exists() else os.listdir(run.root) if exists else []
    try:
        run.root.mkdir(parents=True, exist_ok=True)
        probe = run.root / f".probe-{uuid.uuid4().hex}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"the run directory {run.root} cannot be written ({error.strerror}); choose another --logs"
        ) from None
    return before


def commit(run: RunDirectory, recipe: Recipe) -> None:
    """Write recipe.yaml: from here on the directory belongs to this recipe."""
    with atomic_path(run.recipe) as temporary:
        temporary.write_text(dump(recipe))


@contextlib.contextmanager
def held(run: RunDirectory) -> Iterator[None]:
    """Inside, no other process trains in this directory; `UserError` when one does.

    The lock ends with this process, however it ends, and is not inherited by its workers. A file system without
    locks goes without.
    """
    with open(run.root / ".lock", "w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise UserError(
                    f"another process is training in {run.root}; wait for its end, or choose another --name"
                ) from None
        yield


def sweep(run: RunDirectory) -> None:
    """Delete what a killed run was writing: temporary names beside artifacts, and inside those without a manifest."""
    phases = {run.source: "manifest.json", run.validation: "manifest.json"}
    for stage in run.root.glob("stage_*"):
        phases |= {stage / "clusters": "clusters.json", stage / "buckets": "manifest.json"}
    unfinished = [folder for folder, manifest in phases.items() if not (folder / manifest).exists()]
    folders = [run.root, *run.root.glob("stage_*"), *run.root.glob("stage_*/checkpoints")]
    hidden = [path for folder in folders for path in folder.glob(".*")]
    hidden += [path for folder in unfinished for path in folder.rglob(".*")]
    for path in hidden:
        if path.suffix in (".tmp", ".old"):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def release(run: RunDirectory, before: Sequence[str]) -> None:
    """Take a claim back when the run failed before anything was trained, so that other flags may begin it.

    `before` stays, as `claim` gave it, and so do finished indexes, packed tars and lists of broken ones: among
    millions of tars they are hours of work.
    """
    if run.has_trained(0):
        return
    data = [name for name in _DATA if any((run.root / name / mark).exists() for mark in _WORTH_KEEPING)]
    for entry in run.root.iterdir():
        if entry.name not in {*before, *data}:
            shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)
    if not any(run.root.iterdir()):
        run.root.rmdir()


def is_finished(directory: Path, made_from: Mapping[str, Any]) -> bool:
    """Whether `directory` holds the stage model made from just this; `UserError` when it is made from other things."""
    if not is_stage(directory):
        return False
    record = read_stage_config(directory).get("mcl_clip", {}).get("made_from")
    if record is None:
        raise UserError(f"{directory} was not written by this run; move it away, or choose another --name")
    refuse_foreign(directory, record, made_from)
    return True


def began_anew(directory: Path) -> bool:
    """Whether stage 0's model in `directory` is known to have begun with weights drawn anew (see `base_weights`)."""
    record = read_stage_config(directory).get("mcl_clip", {}).get("made_from") or {}
    weights = record.get("weights", "")
    return weights.endswith(" new") and not weights.startswith("hf-hub:")


def refuse_foreign(what: os.PathLike, record: Mapping[str, Any], made_from: Mapping[str, Any]) -> None:
    """Raise `UserError` unless `what` was made from the given hashes."""
    for name, value in made_from.items():
        if record.get(name) != value:
            raise UserError(
                f"{what} was made from another {name} ({_short(record.get(name))}, now {_short(value)}); "
                "delete it to make it again, or choose another --name"
            )


def _short(value: Any) -> str:
    return str(value)[:12]


def _check_owner(run: RunDirectory, recipe: Recipe) -> None:
    present = {entry.name for entry in run.root.iterdir() if not entry.name.startswith((".", "out"))}
    if not run.recipe.exists():
        strangers = present - _BEFORE_RECIPE
        if strangers:
            raise UserError(f"{run.root} holds {min(strangers)} but no {RECIPE}: it is no run; choose another --name")
        return
    try:
        saved = yaml.safe_load(run.recipe.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(
            f"{run.recipe} cannot be read ({' '.join(str(error).split())}); choose another --name"
        ) from None
    found = list(differences(saved, recipe, run.is_fixed))
    longer = [match[1] for each in found if (match := re.match(r"stages\.(\d+)\.epochs ", each))]
    if found and len(longer) == len(found):
        _refuse_epochs(run, int(longer[0]), found[0])
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise UserError(
            f"{run.root} holds a run of another recipe ({'; '.join(found[:3])}{more}); "
            "choose another --name, or delete it"
        )
    if len(saved.get("stages") or {}) > len(recipe.stages):
        raise UserError(
            f"{run.root} holds a run of {len(saved['stages']) - 1} stages, more than --mcl-stages {recipe.num_stages}; "
            "fuse fewer of them with mcl-fuse, or choose another --name"
        )


def _refuse_epochs(run: RunDirectory, stage: int, difference: str) -> NoReturn:
    """What was trained followed a schedule for its epochs: more of them are another training, and this says which."""
    if stage == 0:
        mend = (
            f"train on from its model in a new run, --name OTHER --mcl-base train --model local-dir:{run.model(0)} "
            "without --pretrained, or from the start with another --name"
        )
    else:
        mend = f"delete {run.stage(stage)} and the stages after it, which are then trained so, or choose another --name"
    raise UserError(f"{run.root} was trained with other epochs ({difference}), for which its schedule was made: {mend}")
