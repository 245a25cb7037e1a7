"""From flags to a recipe: defaults that depend on other flags, and what cannot be trained with."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from mcl_clip.errors import UserError
from mcl_clip.plan.policy import Policy
from training.flags import flag, parse
from training.recipe import GROUPS, Recipe, StageRecipe
from training.recipe_file import PREFIXED, read_config


def parse_recipe(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[int, dict[str, Any]]]:
    """Flags, with those of `--config` put before the command line's, and that file's overrides by stage."""
    flags = parse(arguments)
    if not flags.config:
        return flags, {}
    from_file, overrides = read_config(flags.config)
    return parse([*from_file, *arguments]), overrides


def resolve(
    flags: argparse.Namespace, overrides: Mapping[int, Mapping[str, Any]], *, name: str, world_size: int
) -> Recipe:
    """The recipe of the given flags on so many ranks. Raises `UserError` on values that cannot be trained with."""
    values: dict[str, Any] = {}
    for key, value in vars(flags).items():
        values[key.removeprefix("mcl_")] = value
    _check(values)
    values["global_batch"] = values["batch_size"] * values["accum_freq"] * world_size
    exact = values["gather_with_grad"] or values["siglip"]
    values["diverging_ranks"] = None if exact else world_size
    defaults = Policy()
    for policy in ("min_segment", "lanes", "window"):
        if values[policy] is None:
            values[policy] = getattr(defaults, policy)
    if flags.mcl_min_segment is None:
        values["min_segment"] = min(values["min_segment"], values["global_batch"])
    size = values["force_image_size"]
    values["force_image_size"] = size[0] if isinstance(size, list) and len(size) == 1 else size
    if values["save_most_recent"]:
        values["save_frequency"] = 1
    if values["delete_previous_checkpoint"]:
        values["keep_checkpoints"] = 1
    values["base"] = _base(values)
    groups = {key: group(**{f.name: values[f.name] for f in fields(group)}) for key, group in GROUPS.items()}  # type: ignore[arg-type]
    groups["data"].policy  # noqa: B018  an impossible policy is said now
    return Recipe(
        name=name,
        logs=values["logs"],
        seed=values["seed"],
        base=values["base"],
        fusion=values["fusion"],
        stages=tuple(_stage(values, stage, overrides.get(stage, {})) for stage in range(values["stages"] + 1)),
        **groups,
    )


def _base(values: Mapping[str, Any]) -> str:
    has_weights = bool(values["pretrained"]) or values["model"].startswith(("hf-hub:", "local-dir:"))
    if values["base"] == "auto":
        return "keep" if has_weights and values["stages"] > 0 else "train"
    if values["base"] == "keep" and not has_weights:
        raise UserError(
            "--mcl-base keep needs the weights to keep: give --pretrained, or --model hf-hub:... or local-dir:..."
        )
    return values["base"]


def _stage(values: Mapping[str, Any], stage: int, overrides: Mapping[str, Any]) -> StageRecipe:
    known = {entry.name: entry for entry in fields(StageRecipe)}
    defaults = {name: values.get(name) for name in known}
    unknown = sorted(set(overrides) - set(known))
    if unknown:
        raise UserError(f"--config: stage {stage} has no setting {unknown[0]!r}; there are {', '.join(known)}")
    try:
        casts = {name: _cast(known[name].type, value) for name, value in overrides.items()}
    except (TypeError, ValueError) as error:
        raise UserError(f"--config: stage {stage}: {error}") from None
    resolved = StageRecipe(**(defaults | casts))  # type: ignore[arg-type]
    if resolved.init not in ("base", "previous", "scratch"):
        raise UserError(f"--config: stage {stage}: init is base, previous or scratch, not {resolved.init!r}")
    if resolved.epochs < 1 or resolved.clusters < 1:
        raise UserError(
            f"stage {stage}: epochs and clusters must be at least 1, got {resolved.epochs} and {resolved.clusters}"
        )
    return resolved


def _cast(kind: Any, value: Any) -> Any:
    if kind is bool and not isinstance(value, bool):
        raise ValueError(f"{value!r} is not true or false")
    return kind(value) if kind in (int, float) else value


def _check(values: Mapping[str, Any]) -> None:
    if not values["train_data"]:
        raise UserError("--train-data is missing: give the tars, for example 'data/{00000..00099}.tar'")
    if (values["logs"] or "none").lower() == "none":
        raise UserError("--logs none is not supported: the stages meet through the files of the run directory")
    for name in ("batch_size", "accum_freq", "epochs", "clusters", "shard_size", "keep_checkpoints"):
        if values[name] < 1:
            spelling = flag(f"mcl_{name}" if name in PREFIXED | {"clusters"} else name)
            raise UserError(f"{spelling} must be at least 1, got {values[name]}")
    if values["stages"] < 0 or values["workers"] < 0:
        raise UserError("--mcl-stages and --workers must not be negative")
    if values["lr"] is None:
        raise UserError("--lr is missing: a timm optimizer has no default learning rate here")
    if (values["beta1"] is None) != (values["beta2"] is None):
        raise UserError("--beta1 and --beta2: a timm optimizer needs both or neither")
    if not values["opt"].lower().startswith("timm/") and values["opt"].lower() != "adamw":
        raise UserError(f"--opt {values['opt']} is not known: use adamw or timm/NAME")
    if values["lr_scheduler"] == "const-cooldown" and values["epochs_cooldown"] is None:
        raise UserError("--lr-scheduler const-cooldown needs --epochs-cooldown")
