"""The tensors of a file of weights, however it wraps them; nothing in it is run."""

import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from mcl_clip.errors import UserError

_WRAPPERS = (
    "state_dict",
    "model",
    "model_state_dict",
    "module",
    "state_dict_ema",
    "model_ema",
    "ema",
    "ema_state_dict",
)
"""Keys of a checkpoint that may hold the weights; averaged ones only where there are no others."""

_PREFIXES = ("module.", "_orig_mod.", "model.", "trainable_module.")
"""What DDP, torch.compile, Lightning and open_clip 4's tasks put before every name."""

_INERT = ("numpy", "argparse", "pathlib", "omegaconf")
"""Packages whose objects in a checkpoint (a best score, arguments, paths) are passed over."""


def read_weights(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """A state dict, on the host, of a safetensors file or of a checkpoint as `torch.save` writes it.

    Bare or under one of the common keys, with or without wrappers' prefixes. Raises `UserError` when the file is
    damaged, no weights at all, a TorchScript archive, or holds objects that would run code.
    """
    return _unwrapped(read_checkpoint(path), Path(path))


def read_checkpoint(path: str | os.PathLike) -> Any:
    """All that a file of weights holds; objects of other packages than torch are left blank."""
    path = Path(path)
    _check_kind(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with safe_globals([(_Blank, name) for name in _foreign(path)]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError, SafetensorError) as error:
        raise UserError(f"{path} {_why(str(error) or type(error).__name__)}") from None


def _why(error: str) -> str:
    if "torchscript" in error.lower():
        return "is a TorchScript archive, which holds code; save its state dict, or use the tag openai"
    if object_ := re.search(r"GLOBAL ([\w.]+)", error):
        return f"holds Python objects besides tensors ({object_[1]}), which would run code; save the state dict alone"
    return f"is damaged or cut short ({' '.join(error.split())[:120]}); copy or download it again"


class _Blank:
    """Stands for an object that is passed over."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def _foreign(path: Path) -> list[str]:
    """Names of harmless classes and functions that `weights_only` would refuse; none of them is imported."""
    if not zipfile.is_zipfile(path):
        return []
    return [name for name in get_unsafe_globals_in_checkpoint(path) if name.split(".")[0] in _INERT]


def _check_kind(path: Path) -> None:
    """`UserError` for what is saved in the place of weights: nothing, a web page, a pointer of Git LFS."""
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    if not start:
        raise UserError(f"{path} is empty; copy or download it again")
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a pointer of Git LFS, not the weights; fetch them with git lfs pull")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(f"{path} is a web page, not weights; download the file itself")


def _unwrapped(content: Any, path: Path) -> dict[str, torch.Tensor]:
    while isinstance(content, Mapping):
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    tensors = content.items() if isinstance(content, Mapping) else ()
    state = {name: value for name, value in tensors if isinstance(value, torch.Tensor) and name != "n_averaged"}
    if not state:
        raise UserError(f"{path} holds no weights: no tensors by name, bare or under {', '.join(_WRAPPERS[:4])}")
    while prefix := next((each for each in _PREFIXES if all(name.startswith(each) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return {name.replace("_orig_mod.", ""): tensor for name, tensor in state.items()}
