"""Models of two towers, and the function that builds them without transforms."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import open_clip.factory
import torch
from open_clip.model import CLIP as CLIP
from open_clip.model import CLIPTextCfg as CLIPTextCfg
from open_clip.model import CLIPVisionCfg as CLIPVisionCfg
from open_clip.model import CustomTextCLIP as CustomTextCLIP
from open_clip.model import set_model_preprocess_cfg as set_model_preprocess_cfg

TEXT_FOLDER = "text"


def names_weights(model_name: str) -> bool:
    """Whether a name says where weights lie: on the hub, or in a folder in which open_clip finds a file of them."""
    schema, _, place = model_name.partition(":")
    if schema != "local-dir":
        return schema == "hf-hub"
    return any(file for suffix in ("safetensors", "bin", "pth") for file in Path(place).glob(f"*.{suffix}"))


def create_model(model_name: str, *args: Any, **kwargs: Any) -> Any:
    """Open_clip's, with the text tower that `text_beside` finds."""
    return open_clip.create_model(model_name, *args, **kwargs, **text_beside(model_name))


def text_beside(model_name: str) -> dict[str, Any]:
    """Open_clip's argument to build a Hugging Face text tower whose configuration lies beside the model
    (`local-dir:`, `text/config.json`) from there: by itself it asks the hub, or the machine that trained it."""
    folder = Path(model_name.removeprefix("local-dir:"))
    if not model_name.startswith("local-dir:") or not (folder / TEXT_FOLDER / "config.json").is_file():
        return {}
    text_cfg = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    return {"text_cfg": text_cfg | {"hf_model_name": str(folder / TEXT_FOLDER), "hf_model_pretrained": False}}


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
