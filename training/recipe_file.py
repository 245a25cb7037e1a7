"""The recipe as a file: written as recipe.yaml, compared with one, and read as --config."""

import contextlib
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from mcl_clip.errors import UserError
from mcl_clip.openclip.version import VERSION
from training.flags import did_you_mean, flag, flag_names
from training.open_clip_flags import why_refused
from training.recipe import GROUPS, Recipe, StageRecipe

PACKAGES = (
    "mcl_clip",
    "torch",
    "torchvision",
    "open_clip_torch",
    "timm",
    "transformers",
    "numpy",
    "faiss-gpu",
    "faiss-cpu",
)
PREFIXED = {
    "base", "init", "fusion", "cluster_on", "text_clusters", "reservoir", "keep_features", "index_only", "shard_size",
    "resize", "resize_quality", "leftovers", "min_segment", "lanes", "window", "caption_key", "caption_probs",
    "mask_identical", "channels_last", "no_text_cache", "save_steps", "save_minutes", "keep_checkpoints", "skip_broken",
    "max_faults", "fit_share", "fit_group", "ordinary",
    "objective", "temperature", "projection_dim", "queue", "key_momentum", "fuse_on", "crop_scale", "flip", "jitter",
    "jitter_strengths", "gray", "blur", "blur_sigma", "distill", "distill_student", "distill_epochs", "distill_lr",
    "distill_buckets", "distill_ordinary", "distill_contrastive",
}  # fmt: skip
_DERIVED = {"global_batch", "diverging_ranks"}


def to_plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe as YAML holds it, with the versions of the packages it was resolved with."""
    plain = asdict(recipe)
    plain["stages"] = dict(enumerate(plain["stages"]))
    return {"versions": _versions(), **plain}


def differences(
    saved: Mapping[str, Any], recipe: Recipe, is_fixed: Callable[[int, str], bool] = lambda stage, name: True
) -> Iterator[str]:
    """What changes results and differs: "optimization.wd 0.2 -> 0.1". More stages than saved are no difference.

    `is_fixed(stage, name)`: whether anything on disk depends on that setting of the stage already.
    """
    for group in fields(Recipe):
        new = getattr(recipe, group.name)
        if group.name in GROUPS:
            old = saved.get(group.name) or {}
            yield from _compare(f"{group.name}.", old, asdict(new), [f for f in fields(new) if not f.metadata])
        elif group.name == "stages":
            for stage, old in (saved.get("stages") or {}).items():
                if stage < len(new):
                    compared = [entry for entry in fields(StageRecipe) if is_fixed(stage, entry.name)]
                    yield from _compare(f"stages.{stage}.", old, asdict(new[stage]), compared)
        elif not group.metadata:
            yield from _compare("", saved, {group.name: new}, [group])


def _compare(prefix, old, new, compared) -> Iterator[str]:
    for entry in compared:
        # A recipe of before a setting was there has its default.
        default = None if entry.default is MISSING else entry.default
        before, now = old.get(entry.name, default), _plain(new[entry.name])
        if before != now:
            yield f"{prefix}{entry.name} {before} -> {now}"


def _plain(value: Any) -> Any:
    """`value` after a round trip through YAML."""
    return yaml.safe_load(yaml.safe_dump(_listed(value)))


def _listed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _listed(inner) for key, inner in value.items()}
    return [_listed(inner) for inner in value] if isinstance(value, (tuple, list)) else value


def dump(recipe: Recipe) -> str:
    """`recipe.yaml`."""
    return yaml.safe_dump(_listed(to_plain(recipe)), sort_keys=False)


@dataclass(frozen=True)
class Config:
    """A recipe file: flags as on the command line, and settings by stage. `is_recipe`: a run's recipe.yaml."""

    arguments: list[str]
    stages: dict[int, dict[str, Any]]
    is_recipe: bool


def read_config(file: str) -> Config:
    """Read a recipe file; `UserError` names the key that is no flag. recipe.yaml also tells the number of stages."""
    path = Path(file)
    try:
        config = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"--config {path} cannot be read ({error.strerror})") from None
    except yaml.YAMLError as error:
        raise UserError(f"--config {path} is not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(config, dict):
        raise UserError(f"--config {path} is not a mapping of flags")
    is_recipe = bool(config.pop("versions", None))
    overrides = config.pop("stages", None) or {}
    if not isinstance(overrides, dict) or not all(
        isinstance(stage, int) and isinstance(entry, dict) for stage, entry in overrides.items()
    ):
        raise UserError(f"--config {path}: 'stages' maps stage numbers to settings, for example 1: {{epochs: 5}}")
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat.update(value if key in GROUPS and isinstance(value, dict) else {str(key): value})
    known = flag_names() - {"config"}
    for key in flat:
        name = _flag_name(key)
        if name not in known | _DERIVED and not why_refused(name):
            raise UserError(f"--config {path} has the key {key!r}, which is no flag{did_you_mean(name, known)}")
    stages = ["--mcl-stages", str(len(overrides) - 1)] if is_recipe else []
    return Config([*stages, *arguments_of(flat)], overrides, is_recipe)


def arguments_of(settings: Mapping[str, Any]) -> list[str]:
    """Values of a recipe as on the command line."""
    given = {_flag_name(key): value for key, value in settings.items()}
    return [word for name, value in given.items() if name not in _DERIVED for word in _argument(name, value)]


def _flag_name(key: str) -> str:
    name = key.replace("-", "_")
    return "mcl_" + name if name in PREFIXED else name


def _argument(name: str, value: Any) -> list[str]:
    if value is None or value is False or value == {} or value == "":
        return []
    if value is True:
        return [flag(name)]
    if isinstance(value, dict):
        return [flag(name), *(f"{key}={inner}" for key, inner in value.items())]
    return [flag(name), *map(str, value)] if isinstance(value, list) else [f"{flag(name)}={value}"]


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions | {"open_clip_torch": VERSION}
