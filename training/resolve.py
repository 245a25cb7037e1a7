"""From flags to a recipe: defaults that depend on other flags, and what cannot be trained with."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from mcl_clip.errors import UserError
from mcl_clip.openclip.models import names_weights
from mcl_clip.openclip.transforms import AugmentationCfg
from mcl_clip.plan.policy import Policy
from mcl_clip.shards.apart import Apart
from mcl_clip.shards.captions import caption_keys
from mcl_clip.shards.sources import repeat_counts
from training.distill_flags import resolved_distill
from training.flags import flag, parse
from training.image_flags import resolved
from training.needs import check_needs
from training.recipe import GROUPS, Recipe, StageRecipe
from training.recipe_file import PREFIXED, read_config
from training.reporting import destinations

_AT_LEAST = {
    **dict.fromkeys(("batch_size", "accum_freq", "epochs", "clusters", "text_clusters", "reservoir", "shard_size"), 1),
    **dict.fromkeys(("keep_checkpoints", "train_num_samples", "val_num_samples", "log_every_n_steps"), 1),
    **dict.fromkeys(("distill_epochs", "distill_lr"), 0),
    **dict.fromkeys(("stages", "workers", "seed", "warmup", "save_frequency", "save_steps", "save_minutes"), 0),
    **dict.fromkeys(("lr", "wd", "beta1", "beta2", "eps", "momentum", "grad_clip_norm", "force_patch_dropout"), 0),
    "max_faults": 0,
}
"""Least values of numbers of the recipe."""


def parse_recipe(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[int, dict[str, Any]]]:
    """Flags, with those of `--config` put before the command line's, and that file's overrides by stage.

    A run's recipe.yaml sets everything for every stage; there the command line wins over the stages too.
    """
    flags = parse(arguments)
    if not flags.config:
        return flags, {}
    config = read_config(flags.config)
    flags = parse([*config.arguments, *arguments])
    if not config.is_recipe:
        surplus = sorted(stage for stage in config.stages if not 0 <= stage <= flags.mcl_stages)
        if surplus:
            raise UserError(
                f"--config {flags.config} sets stage {surplus[0]}, but --mcl-stages is {flags.mcl_stages}: "
                "raise it, or leave the stage out"
            )
        return flags, config.stages
    spoken = {_spelling(f.name) for f in fields(StageRecipe)} & {token.split("=", 1)[0] for token in arguments}
    return flags, {
        stage: {name: value for name, value in settings.items() if _spelling(name) not in spoken}
        for stage, settings in config.stages.items()
    }


def _spelling(name: str) -> str:
    """The flag of a value of the recipe."""
    return flag(f"mcl_{name}" if name in PREFIXED | {"stages", "clusters"} else name)


def resolve(
    flags: argparse.Namespace, overrides: Mapping[int, Mapping[str, Any]], *, name: str, world_size: int
) -> Recipe:
    """The recipe of the given flags on so many ranks. Raises `UserError` on values that cannot be trained with."""
    values: dict[str, Any] = {}
    for key, value in vars(flags).items():
        values[key.removeprefix("mcl_")] = value
    _check(values)
    values["global_batch"] = values["batch_size"] * values["accum_freq"] * world_size
    exact = values["gather_with_grad"] or values["siglip"] or values["objective"] != "clip"
    values["diverging_ranks"] = None if exact else world_size
    if values["min_segment"] is None:
        values["min_segment"] = min(Policy().min_segment, values["global_batch"])
    size = values["force_image_size"]
    values["force_image_size"] = size[0] if isinstance(size, list) and len(size) == 1 else size
    if values["save_most_recent"]:
        values["save_frequency"] = 1
    if values["delete_previous_checkpoint"]:
        values["keep_checkpoints"] = 1
    values["opt_kwargs"] = dict(values["opt_kwargs"] or ()) or None
    values["wd_exclude"] = values["wd_exclude"] or None
    values |= resolved(values, _spelling)
    values |= resolved_distill(values, _spelling)
    values["base"] = _base(values)
    groups = {key: group(**{f.name: values[f.name] for f in fields(group)}) for key, group in GROUPS.items()}  # type: ignore[arg-type]
    _ = groups["data"].smaller  # what is impossible is said now
    stages = tuple(_stage(values, stage, overrides.get(stage, {})) for stage in range(values["stages"] + 1))
    defaults = {key.removeprefix("mcl_"): value for key, value in vars(parse(["--model", values["model"]])).items()}
    check_needs(values, defaults, stages, _spelling)
    recipe = Recipe(
        name=name,
        logs=values["logs"],
        seed=values["seed"],
        base=values["base"],
        fusion=values["fusion"],
        stages=stages,
        **groups,
    )
    for stage in range(len(stages)):
        _ = recipe.policy(stage)
    return recipe


def _base(values: Mapping[str, Any]) -> str:
    backbone = values["pretrained_image"] and values["objective"] != "clip"
    has_weights = bool(values["pretrained"]) or backbone or names_weights(values["model"])
    if values["base"] == "auto":
        return "keep" if has_weights and values["stages"] > 0 else "train"
    if values["base"] == "keep" and not has_weights:
        raise UserError(
            "--mcl-base keep needs the weights to keep: give --pretrained, or --model hf-hub:... or local-dir:... "
            "with a file of them"
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
        raise UserError(f"--config: stage {stage} has a wrong value: {error}") from None
    resolved = StageRecipe(**(defaults | casts))  # type: ignore[arg-type]
    if not 0 <= resolved.ordinary <= 1:
        where = "--config: " if "ordinary" in overrides else ""
        raise UserError(f"{where}stage {stage}: --mcl-ordinary is a share from 0 to 1, got {resolved.ordinary}")
    if stage == 0 and resolved.labels:
        raise UserError("--config: stage 0 has no buckets; give 'labels' to stage 1 or later")
    if resolved.init not in ("base", "previous", "scratch"):
        raise UserError(f"--config: stage {stage}: init is base, previous or scratch, not {resolved.init!r}")
    for name, least in _AT_LEAST.items():
        value = getattr(resolved, name, least)
        if value is None or not value >= least:
            raise UserError(f"--config: stage {stage}: {name} must be at least {least}, got {value}")
    return resolved


def _cast(kind: Any, value: Any) -> Any:
    if kind is bool and not isinstance(value, bool):
        raise ValueError(f"{value!r} is not true or false")
    if kind is int and type(value) is not int:
        raise ValueError(f"{value!r} is not a whole number")
    if kind is float and type(value) not in (int, float, str):  # YAML takes 1e-5 for a string
        raise ValueError(f"{value!r} is not a number")
    return float(value) if kind is float else value


def _check(values: Mapping[str, Any]) -> None:
    if values["dataset_type"] == "synthetic":
        if values["train_data"]:
            raise UserError("--dataset-type synthetic makes its own data; leave --train-data out")
    elif not values["train_data"]:
        raise UserError("--train-data is missing: give the tars, for example 'data/{00000..00099}.tar'")
    if (values["logs"] or "none").lower() == "none":
        raise UserError("--logs none is not supported: the stages meet through the files of the run directory")
    destinations(values["report_to"])
    if values["train_data_upsampling_factors"] is not None:
        repeat_counts(values["train_data_upsampling_factors"])
    _check_captions(values["caption_key"], values["caption_probs"])
    if values["fit_share"] is not None:
        Apart(share=values["fit_share"])
    for name, least in _AT_LEAST.items():
        if values[name] is not None and not values[name] >= least:  # NaN is not either
            raise UserError(f"{_spelling(name)} must be at least {least}, got {values[name]}")
    _check_augmentation(values["aug_cfg"])
    size = values["force_image_size"]
    if size is not None and not (len(size) in (1, 2) and min(size) > 0):
        raise UserError(
            f"--force-image-size takes a side, or height and width, above 0, got {' '.join(map(str, size))}"
        )
    if values["pretrained"] and ":" in values["model"]:
        raise UserError(
            f"--pretrained {values['pretrained']} is not supported with --model {values['model']}: "
            "that brings its own weights; give one of the two"
        )
    for name in ("image_mean", "image_std"):
        if values[name] is not None and len(values[name]) != 3:
            raise UserError(f"{_spelling(name)} takes three values, one a channel, got {len(values[name])}")
    if values["lr"] is None:
        raise UserError("--lr is missing: a timm optimizer has no default learning rate here")
    for name in ("image_layer_decay", "text_layer_decay"):
        if values[name] is not None and not 0 < values[name] <= 1:
            raise UserError(f"{_spelling(name)} must be above 0 and at most 1, got {values[name]}")
    if (values["beta1"] is None) != (values["beta2"] is None):
        raise UserError("--beta1 and --beta2: a timm optimizer needs both or neither")
    if not values["opt"].lower().startswith("timm/") and values["opt"].lower() != "adamw":
        raise UserError(f"--opt {values['opt']} is not known: use adamw or timm/NAME")
    if values["lr_scheduler"] == "const-cooldown" and values["epochs_cooldown"] is None:
        raise UserError("--lr-scheduler const-cooldown needs --epochs-cooldown")


def _check_captions(caption_key: str | None, probs: list[float] | None) -> None:
    keys = caption_keys(caption_key or "")
    if probs and not keys:
        raise UserError("--mcl-caption-probs needs --mcl-caption-key 'FIELD;FIELD', whose weights they are")
    if probs and len(probs) > len(keys):
        raise UserError(f"--mcl-caption-probs has {len(probs)} weights, but --mcl-caption-key {len(keys)} fields")
    if probs and not (all(0 <= weight < float("inf") for weight in probs) and any(probs)):
        raise UserError(f"--mcl-caption-probs {probs}: weights are not negative, and one is above 0")


def _check_augmentation(given: Mapping[str, Any]) -> None:
    known = [entry.name for entry in fields(AugmentationCfg)]
    for name in given:
        if name not in known:
            raise UserError(f"--aug-cfg {name} is not known; there are {', '.join(known)}")
    scale = given.get("scale", (0.9, 1.0))
    if not isinstance(scale, (tuple, list)) or len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
        raise UserError(f"--aug-cfg scale={scale} is not a range of a crop's share of the image, such as [0.4,1.0]")
