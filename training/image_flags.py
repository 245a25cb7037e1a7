"""Flags of training on images alone: their help, their defaults by objective, and what they cannot be."""

from collections.abc import Callable, Mapping
from typing import Any

from mcl_clip.errors import UserError
from mcl_clip.models.image_model import OUTPUTS

_VIEWS = {
    "crop_scale": [0.08, 1.0],
    "flip": 0.5,
    "jitter": 0.8,
    "jitter_strengths": [0.8, 0.8, 0.8, 0.2],
    "gray": 0.2,
    "blur": None,
    "blur_sigma": [0.1, 2.0],
}
_BOTH = {"projection_dim": 128, "fuse_on": "features", **_VIEWS}
DEFAULTS: dict[str, dict[str, Any]] = {
    "clip": {},
    "simclr": {**_BOTH, "temperature": 0.5},
    "moco": {
        **_BOTH,
        "temperature": 0.2,
        "queue": 65536,
        "key_momentum": 0.999,
        "crop_scale": [0.2, 1.0],
        "jitter_strengths": [0.4, 0.4, 0.4, 0.1],
    },
}
"""Of views lightly's for SimCLR and MoCo v2; None: see `Augmentations`."""
NAMES = tuple({name: None for each in DEFAULTS.values() for name in each})

NEED_TEXTS = (
    "siglip", "local_loss", "gather_with_grad", "mask_identical", "force_quick_gelu", "force_custom_text",
    "force_patch_dropout", "force_context_length", "aug_cfg", "caption_key", "caption_probs", "text_layer_decay",
    "lock_text", "lock_text_unlocked_layers", "lock_text_freeze_layer_norm", "text_clusters", "val_data",
    "imagenet_val", "fit_share", "fit_group",
)  # fmt: skip
"""Flags that mean nothing where no captions are read."""


def add_image_flags(add: Callable) -> None:
    """Their help."""
    add(
        "--mcl-objective", choices=list(DEFAULTS), default="clip",
        help="what stages are trained for: clip on images and captions (default), simclr or moco (v2) on two views of "
        "images, which need no captions; --model is then timm/NAME",
    )  # fmt: skip
    add("--mcl-temperature", type=float, help="of the loss of views (default: simclr 0.5, moco 0.2)")
    add("--mcl-projection-dim", type=int, help="numbers that the projection head gives (default 128)")
    add("--mcl-queue", type=int, help="moco: keys kept, divided among the pseudo-labels by size (default 65536)")
    add("--mcl-key-momentum", type=float, help="moco: of the encoder of keys (default 0.999)")
    add("--mcl-fuse-on", choices=OUTPUTS, help="of images alone: fuse backbone features (default), or projections")
    add(
        "--mcl-crop-scale", type=float, nargs=2, metavar=("LOW", "HIGH"),
        help="share of an image's area that a view shows (default: simclr 0.08 1, moco 0.2 1)",
    )  # fmt: skip
    add("--mcl-flip", type=float, help="probability of a view being mirrored (default 0.5)")
    add("--mcl-jitter", type=float, help="probability of its colours being changed (default 0.8)")
    add(
        "--mcl-jitter-strengths", type=float, nargs=4, metavar=("BRIGHTNESS", "CONTRAST", "SATURATION", "HUE"),
        help="how much (default: simclr 0.8 0.8 0.8 0.2, moco 0.4 0.4 0.4 0.1)",
    )  # fmt: skip
    add("--mcl-gray", type=float, help="probability of a view without colours (default 0.2)")
    add("--mcl-blur", type=float, help="probability of a blurred view (default 0.5; of images below 64 pixels 0)")
    add(
        "--mcl-blur-sigma", type=float, nargs=2, metavar=("LOW", "HIGH"),
        help="standard deviation of the blur in pixels (default 0.1 2)",
    )  # fmt: skip


def resolved(values: Mapping[str, Any], spelling: Callable[[str], str]) -> dict[str, Any]:
    """The settings of the objective, its defaults filled in; `UserError` for those that it cannot have."""
    objective = values["objective"]
    found = {name: DEFAULTS[objective].get(name) for name in NAMES}
    for name in NAMES:
        given = values[name]
        if given is not None and name not in DEFAULTS[objective]:
            others = " or ".join(each for each, known in DEFAULTS.items() if name in known)
            raise UserError(f"{spelling(name)} needs --mcl-objective {others}")
        found[name] = found[name] if given is None else given
    _check(found, spelling)
    return found


def _check(found: Mapping[str, Any], spelling: Callable[[str], str]) -> None:
    def refuse(name: str, words: str) -> None:
        raise UserError(f"{spelling(name)} {words}, got {found[name]}")

    for name in ("flip", "jitter", "gray", "blur"):
        if found[name] is not None and not 0 <= found[name] <= 1:
            refuse(name, "is a probability from 0 to 1")
    if found["temperature"] is not None and not 0 < found["temperature"] < float("inf"):
        refuse("temperature", "must be above 0")
    if found["key_momentum"] is not None and not 0 <= found["key_momentum"] < 1:
        refuse("key_momentum", "is from 0 to below 1")
    for name in ("projection_dim", "queue"):
        if found[name] is not None and found[name] < 1:
            refuse(name, "must be at least 1")
    scale, sigma, strengths = found["crop_scale"], found["blur_sigma"], found["jitter_strengths"]
    if scale is not None and not 0 < scale[0] <= scale[1] <= 1:
        refuse("crop_scale", "is a range above 0 and up to 1")
    if sigma is not None and not 0 < sigma[0] <= sigma[1] < float("inf"):
        refuse("blur_sigma", "is a range above 0")
    if strengths is not None and not (all(each >= 0 for each in strengths) and strengths[3] <= 0.5):
        refuse("jitter_strengths", "are not negative, and that of hue is at most 0.5")
