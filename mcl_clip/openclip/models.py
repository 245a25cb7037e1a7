"""Models of two towers, and the function that builds them without transforms."""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import open_clip.factory
import torch
from open_clip import create_model as create_model
from open_clip.model import CLIP as CLIP
from open_clip.model import CLIPTextCfg as CLIPTextCfg
from open_clip.model import CLIPVisionCfg as CLIPVisionCfg
from open_clip.model import CustomTextCLIP as CustomTextCLIP
from open_clip.model import set_model_preprocess_cfg as set_model_preprocess_cfg


@contextlib.contextmanager
def weights_read_by(read: Callable[[str | os.PathLike], dict[str, torch.Tensor]]) -> Iterator[None]:
    """Inside, open_clip's factory reads files of weights with `read`, and converts their tensors as ever."""
    theirs = open_clip.factory.load_state_dict

    def load_state_dict(path: str | os.PathLike, *_: Any, **__: Any) -> dict[str, torch.Tensor]:
        return read(path)

    open_clip.factory.load_state_dict = load_state_dict
    try:
        yield
    finally:
        open_clip.factory.load_state_dict = theirs
