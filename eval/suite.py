"""A suite of tasks: from words, `zero-shot:imagenet:split=val`, or a YAML file to what each single command would do."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import yaml

from eval import knn, linear_probe, mmvp, retrieval, sugarcrepe, winoground, zero_shot
from eval.command import add_pass_arguments
from eval.task import Task
from mcl_clip.errors import UserError

TASKS: dict[str, Task] = {
    module.TASK.name: module.TASK for module in (mmvp, zero_shot, retrieval, sugarcrepe, winoground, linear_probe, knn)
}
OPTION = re.compile(r"([a-z][a-z-]*)=(.*)", re.DOTALL)


@dataclass(frozen=True)
class Entry:
    """One task as it was asked for; options are the single command's flags without dashes, and `name`."""

    task: str
    place: str | None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the scores file: `name`, or what is scored: zero_shot_imagenet."""
        kind = self.task.replace("-", "_")
        stem = re.sub(r"\.(jsonl?|parquet)$", "", Path(self.place).name) if self.place else ""
        default = stem if stem.lower().startswith(kind) else "_".join(filter(None, (kind, stem)))
        return str(self.options.get("name", default))

    def as_mapping(self) -> dict[str, Any]:
        """As it stands in a suite file."""
        return {self.task: self.place} | self.options


@dataclass(frozen=True)
class Planned:
    """A task that is ready to be run; the arguments are those of its own command."""

    name: str
    task: Task
    args: argparse.Namespace


def from_words(words: Sequence[str]) -> list[Entry]:
    """Of TASK[:PLACE][:KEY=VALUE]..., several by comma."""
    parted = [word.split(",") for word in words]
    for before, text in (pair for texts in parted for pair in pairwise(texts)):
        if text and "=" in before and text.partition(":")[0] not in TASKS:
            raise UserError(f"a comma parts tasks, and {text!r} after {before!r} is none; lists need a --suite file")
    entries = [_entry(text) for texts in parted for text in texts if text]
    if not entries:
        raise UserError("--tasks names no task; give TASK:PLACE, mmvp:MMVP_VLM for example")
    return entries


def from_file(path: str) -> list[Entry]:
    """Of a YAML file: `tasks`, a list of words as above, or of mappings {TASK: PLACE, KEY: VALUE, ...}."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"--suite {path} cannot be read as YAML ({' '.join(str(error).split())})") from None
    listed = content.get("tasks") if isinstance(content, dict) else None
    if not isinstance(listed, list) or not listed:
        raise UserError(f"--suite {path} has no list `tasks`")
    return [_entry(each) if isinstance(each, str) else _mapped(each, path) for each in listed]


def plan(entries: Sequence[Entry], **defaults: Any) -> list[Planned]:
    """Every entry with the arguments of its command; `defaults` are those that all share. `UserError` on a bad flag."""
    names = [entry.name for entry in entries]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"two tasks are called {twice[0]}; give one another name (TASK:PLACE:name=...)")
    if bad := [name for name in names if not re.fullmatch(r"[\w.+-]+", name) or name.startswith(".")]:
        raise UserError(f"the task name {bad[0]!r} makes no file name; give it another (TASK:PLACE:name=...)")
    return [Planned(entry.name, TASKS[entry.task], _arguments(entry, defaults)) for entry in entries]


def with_options(entries: Sequence[Entry], **options: Any) -> list[Entry]:
    """The entries with those of the options that are not None, where they do not say otherwise themselves."""
    given = {key.replace("_", "-"): value for key, value in options.items() if value is not None}
    return [replace(entry, options=given | entry.options) for entry in entries]


def _entry(text: str) -> Entry:
    task, *parts = text.split(":")
    options = {match[1]: match[2] for part in parts if (match := OPTION.fullmatch(part))}
    places = [part for part in parts if not OPTION.fullmatch(part)]
    return _checked(Entry(task, ":".join(places) or None, options))


def _mapped(mapping: Any, path: str) -> Entry:
    named = [key for key in mapping if key in TASKS] if isinstance(mapping, dict) else []
    if len(named) != 1:
        raise UserError(f"--suite {path}: {mapping!r} names no task; expected is one of {', '.join(TASKS)}")
    place = mapping[named[0]]
    options = {str(key): value for key, value in mapping.items() if key != named[0]}
    return _checked(Entry(named[0], None if place is None else str(place), options))


def _checked(entry: Entry) -> Entry:
    if entry.task not in TASKS:
        raise UserError(f"there is no task {entry.task!r}; expected is one of {', '.join(TASKS)}")
    return entry


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}")


def _arguments(entry: Entry, defaults: dict[str, Any]) -> argparse.Namespace:
    task = TASKS[entry.task]
    parser = _Parser(f"task {entry.name}", add_help=False, allow_abbrev=False)
    task.add_arguments(parser)
    add_pass_arguments(parser)
    words = [] if entry.place is None else [task.place, entry.place]
    for key, value in entry.options.items():
        if key != "name" and value is not False:
            values = value if isinstance(value, list) else [value]
            words += [f"--{key}", *(str(each) for each in values if each is not True and each != "true")]
    return parser.parse_args(words, argparse.Namespace(**defaults))
