"""How a scorer's images are made: by the training decoder where open_clip's own preprocessing is asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from mcl_clip.loading.augment import EvalTransform, eval_transform
from mcl_clip.loading.decode import decode_pil
from mcl_clip.openclip.transforms import PreprocessCfg, image_transform_v2


@dataclass(frozen=True)
class OwnTransform:
    """Any function from a PIL image to a float [3, H, W]; called like `EvalTransform`, it normalises itself."""

    preprocess: Callable[[Image.Image], Any]
    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)

    def __call__(self, data: bytes) -> tuple[torch.Tensor, bool]:
        return self.preprocess(decode_pil(data)), False


def scoring_transform(model: Any, preprocess: Callable[[Image.Image], Any]) -> EvalTransform | OwnTransform:
    """What makes the pixels that `preprocess` makes, from an encoded image.

    Where `preprocess` is what open_clip makes of the model's configuration, this is the training decoder: uint8 pixels,
    within 1/255 but for some in a million, in less than half the time; and `preprocess` itself where it is another.
    """
    cfg = getattr(getattr(model, "visual", None), "preprocess_cfg", None)
    if cfg is not None and repr(preprocess) == repr(image_transform_v2(PreprocessCfg(**cfg), is_train=False)):
        return eval_transform(cfg)
    return OwnTransform(preprocess)
