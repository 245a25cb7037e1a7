"""What needs what: a flag that would change nothing as the others stand is refused, not passed over."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mcl_clip.errors import UserError
from mcl_clip.models.stage_model import read_stage_config
from mcl_clip.openclip.configs import get_model_config
from mcl_clip.openclip.models import names_weights
from mcl_clip.shards.sources import manifest_directory
from training.image_flags import NEED_TEXTS
from training.recipe import StageRecipe

Values = Mapping[str, Any]


def _is_on(name: str) -> Callable[[Values], bool]:
    return lambda values: bool(values[name])


def _cools_down(values: Values) -> bool:
    return values["lr_scheduler"] == "const-cooldown" and not values["skip_scheduler"]


def _has_fit_pairs(values: Values) -> bool:
    # A directory that is indexed already may have some set apart; its manifest is asked when it is opened.
    return bool(values["fit_share"] or values["val_data"] or manifest_directory(values["train_data"] or ""))


NEEDS: tuple[tuple[str, Callable[[Values], bool], str], ...] = (
    ("lock_image_unlocked_groups", _is_on("lock_image"), "needs --lock-image"),
    ("lock_image_freeze_bn_stats", _is_on("lock_image"), "needs --lock-image"),
    ("lock_text_unlocked_layers", _is_on("lock_text"), "needs --lock-text"),
    ("lock_text_freeze_layer_norm", _is_on("lock_text"), "needs --lock-text"),
    ("no_text_cache", _is_on("lock_text"), "needs --lock-text"),
    ("resize", lambda values: not values["index_only"], "needs tars to write to: leave --mcl-index-only out"),
    ("resize", _is_on("stages"), "needs buckets: --mcl-stages 1 or more"),
    ("resize_quality", _is_on("resize"), "needs --mcl-resize"),
    ("ordinary", _is_on("stages"), "needs buckets: --mcl-stages 1 or more"),
    (
        "ordinary",
        lambda values: values["leftovers"] == "pack",
        "needs --mcl-leftovers pack",
    ),
    (
        "ordinary",
        lambda values: not values["train_data_upsampling_factors"],
        "needs samples that are taken once: leave --train-data-upsampling-factors out",
    ),
    (
        "ordinary",
        lambda values: values["objective"] != "moco",
        "needs pseudo-labels of the same size in every epoch with --mcl-objective moco, which keeps a queue of each: "
        "leave it out, or --mcl-objective simclr",
    ),
    ("momentum", lambda values: values["opt"].lower() != "adamw", "needs an optimizer of timm: --opt timm/NAME"),
    ("epochs_cooldown", _cools_down, "needs --lr-scheduler const-cooldown"),
    ("lr_cooldown_end", _cools_down, "needs --lr-scheduler const-cooldown"),
    ("lr_cooldown_power", _cools_down, "needs --lr-scheduler const-cooldown"),
    ("lr_scheduler", lambda values: not values["skip_scheduler"], "has no effect with --skip-scheduler"),
    ("warmup", lambda values: not values["skip_scheduler"], "has no effect with --skip-scheduler"),
    ("local_loss", lambda values: not values["siglip"], "has no effect with --siglip; leave it out"),
    ("pretrained_image", lambda values: not values["pretrained"], "has no effect with --pretrained"),
    ("torchcompile_mode", _is_on("torchcompile"), "needs --torchcompile"),
    ("torchcompile_backend", _is_on("torchcompile"), "needs --torchcompile"),
    ("val_num_samples", _is_on("val_data"), "needs --val-data"),
    (
        "fusion",
        lambda values: values["fusion"] != "fitted" or _has_fit_pairs(values),
        "fitted needs pairs that no stage is trained on, to fit its weights on: set some apart with --mcl-fit-share, "
        "or give --val-data",
    ),
    ("fit_group", _is_on("fit_share"), "needs --mcl-fit-share"),
    ("text_clusters", lambda values: values["cluster_on"] == "image-text", "needs --mcl-cluster-on image-text"),
)
"""A flag, when it has an effect, and what to do where it has none."""

_OF_TIMM = ("ratio", "re_prob", "re_count")
_OF_OPEN_CLIP = ("color_jitter_prob", "gray_scale_prob")


def check_needs(
    values: Values, defaults: Values, stages: Sequence[StageRecipe], spelling: Callable[[str], str]
) -> None:
    """`UserError` for a flag without effect in any stage, or one that another makes senseless.

    A flag is given when its value is not `defaults`'; `spelling(name)` is how it is written.
    """
    of_stages = [{**values, **asdict(stage)} for stage in stages]
    _check_objective(values, defaults, of_stages, spelling)
    for name, has_effect, words in NEEDS:
        if any(each[name] != defaults[name] for each in of_stages) and not any(map(has_effect, of_stages)):
            raise UserError(f"{spelling(name)} {words}")
    cooldown = values["epochs_cooldown"]
    for number, stage in enumerate(stages):
        if cooldown is not None and cooldown > stage.epochs:
            raise UserError(f"--epochs-cooldown {cooldown} is longer than the {stage.epochs} epochs of stage {number}")
        locked = "--lock-image" if stage.lock_image else "--lock-text" if stage.lock_text else None
        if number and stage.init == "scratch" and locked:
            raise UserError(
                f"--mcl-init scratch: {locked} would keep a tower of stage {number} as it is drawn; leave one out"
            )
    _check_locks_of_new_weights(values, stages[0])
    _check_augmentation(values["aug_cfg"])


def _check_objective(
    values: Values, defaults: Values, of_stages: Sequence[Values], spelling: Callable[[str], str]
) -> None:
    """What is of texts means nothing where images are read alone, and the other way round."""
    objective, cluster_on = values["objective"], values["cluster_on"]
    if objective == "clip":
        if cluster_on == "projection":
            raise UserError("--mcl-cluster-on projection needs --mcl-objective simclr or moco")
        return
    for name in NEED_TEXTS:
        if any(each[name] != defaults[name] for each in of_stages):
            raise UserError(f"{spelling(name)} has no effect with --mcl-objective {objective}: images are read alone")
    if cluster_on not in ("image", "projection"):
        raise UserError(f"--mcl-cluster-on {cluster_on} needs texts; with --mcl-objective {objective} there are none")
    if values["fusion"] == "fitted":
        raise UserError(f"--mcl-fusion fitted needs texts; with --mcl-objective {objective} there are none")


def _check_locks_of_new_weights(values: Values, stage: StageRecipe) -> None:
    """A locked tower of stage 0 has weights: the model's, or its own (ImageNet's, Hugging Face's)."""
    if values["pretrained"] or names_weights(values["model"]):
        return
    if values["objective"] != "clip":
        if stage.lock_image and not values["pretrained_image"]:
            raise UserError("--lock-image would keep a backbone as it is drawn: give --pretrained-image")
        return
    schema, _, folder = values["model"].rpartition(":")
    config = read_stage_config(folder)["model_cfg"] if schema == "local-dir" else get_model_config(values["model"])
    if config is None:
        return  # refused where it is built
    image_is_new = not (values["pretrained_image"] or config["vision_cfg"].get("timm_model_pretrained"))
    if stage.lock_image and image_is_new:
        raise UserError("--lock-image would keep a tower as it is drawn: give --pretrained, or --pretrained-image")
    if stage.lock_text and not config["text_cfg"].get("hf_model_name"):
        raise UserError("--lock-text would keep a tower as it is drawn: give --pretrained")


def _check_augmentation(given: Values) -> None:
    use_timm = bool(given.get("use_timm"))
    for name in _OF_OPEN_CLIP if use_timm else _OF_TIMM:
        if given.get(name) is not None:
            mend = "leave use_timm out" if use_timm else "add use_timm=True"
            raise UserError(f"--aug-cfg {name}={given[name]} has no effect so; {mend}")
    if given.get("color_jitter") is not None and not use_timm and not given.get("color_jitter_prob"):
        raise UserError("--aug-cfg color_jitter has no effect without color_jitter_prob, or use_timm=True")
