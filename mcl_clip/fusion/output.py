"""Where a fused model may be written: a directory is replaced as a whole, so nothing else may be in it."""

import fnmatch
import os
from pathlib import Path

from mcl_clip.artifacts import check_inside
from mcl_clip.errors import UserError

MCL_CONFIG_NAME = "mcl_config.json"
HF_CODE_NAME = "modeling_mcl_clip.py"  # of an exported directory; a tokenizer saved alone has it as well
# Entries of a directory that a newer model may take the place of; anything else in it is someone's own.
_OURS = ("*.json", "*.safetensors", "*.py", "README.md", "stages", "__pycache__")


def check_output(directory: str | os.PathLike) -> None:
    """`UserError` unless `directory` is absent, empty or a fused model and nothing else: it is replaced whole."""
    path = Path(directory).absolute()
    check_inside("--output", directory, path.parent)
    if not path.exists():
        return
    if not path.is_dir():
        raise UserError(f"--output {directory} is a file: name a directory")
    entries = sorted(entry.name for entry in path.iterdir())
    foreign = [name for name in entries if not any(fnmatch.fnmatch(name, ours) for ours in _OURS)]
    if entries and (foreign or not {MCL_CONFIG_NAME, HF_CODE_NAME} & set(entries)):
        raise UserError(
            f"--output {directory} holds {(foreign or entries)[0]}, which is no part of a fused model and "
            "would be lost: name another directory"
        )
