"""Training state on disk: whole or absent, the last few kept, loadable with `weights_only=True`."""

import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mcl_clip.artifacts import atomic_path
from mcl_clip.errors import UserError

FORMAT = {"format": "mcl_clip checkpoint", "version": 1}
_NAME = re.compile(r"step_(\d{8,})\.pt")


def save_checkpoint(directory: str | os.PathLike, step: int, state: Mapping[str, Any], *, keep: int) -> Path:
    """Write `state` as `step_{step}.pt`, atomically, then delete all but the newest `keep` checkpoints.

    `state` holds tensors, numbers, strings and plain containers of these. When the disk is full the
    older checkpoints stay as they were and `UserError` is raised.
    """
    assert keep >= 1
    directory = Path(directory)
    path = directory / f"step_{step:08d}.pt"
    try:
        with atomic_path(path) as temporary:
            torch.save({**FORMAT, **state, "step": step}, temporary)
    except (OSError, RuntimeError) as error:
        # PyTorch's writer says no more than that a position in the file is not what it should be; what else goes wrong
        # while it writes, on a GPU say, is another matter.
        full = re.search(r"PytorchStreamWriter failed writing|unexpected pos", str(error))
        if not isinstance(error, OSError) and not full:
            raise
        reason = error.strerror if isinstance(error, OSError) else "the disk or a quota is full"
        raise UserError(
            f"checkpoint {path} cannot be written ({reason}); "
            "earlier checkpoints are intact: free space and run the same command again"
        ) from None
    for _, old in _checkpoints(directory)[:-keep]:
        old.unlink(missing_ok=True)
    for debris in directory.glob(".step_*.tmp"):
        debris.unlink(missing_ok=True)
    return path


def latest_checkpoint(directory: str | os.PathLike) -> Path | None:
    """The checkpoint of the highest step, or None."""
    checkpoints = _checkpoints(Path(directory))
    return checkpoints[-1][1] if checkpoints else None


def load_checkpoint(path: str | os.PathLike, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint without running code from it; `UserError` when it is damaged or of another format."""
    try:
        state = torch.load(path, map_location=map_location, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(
            f"checkpoint {path} cannot be read ({' '.join(str(error).split())[:120]}); "
            "delete it to go on from the one before"
        ) from None
    if not isinstance(state, dict) or {name: state.get(name) for name in FORMAT} != FORMAT:
        raise UserError(f"{path} is not of {FORMAT}; delete it to go on from the checkpoint before")
    return state


def checkpoint_configuration(path: str | os.PathLike) -> dict[str, Any] | None:
    """The open_clip configuration that a checkpoint of ours holds; None for any other file. Reads no weights."""
    if not _NAME.fullmatch(Path(path).name):
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
        return None
    config = state.get("config") if isinstance(state, dict) else None
    return config if isinstance(config, dict) and isinstance(config.get("model_cfg"), dict) else None


def _checkpoints(directory: Path) -> list[tuple[int, Path]]:
    found = directory.iterdir() if directory.is_dir() else ()
    return sorted((int(match[1]), path) for path in found if (match := _NAME.fullmatch(path.name)))
