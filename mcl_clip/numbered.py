"""Files by number, at most 1,000 entries to a folder: no file system likes millions of names in one."""

import os
from pathlib import Path


def numbered(folder: str | os.PathLike, number: int, suffix: str) -> Path:
    """Where file `number` is written: `folder/00/012/00012345.suffix`."""
    return Path(folder) / f"{number // 1_000_000:02d}/{number // 1000 % 1000:03d}/{number:08d}{suffix}"


def find_numbered(folder: str | os.PathLike, number: int, suffix: str) -> Path:
    """Where it lies: there, or in the folder itself, where earlier versions put all of them."""
    path, flat = numbered(folder, number, suffix), Path(folder) / f"{number:08d}{suffix}"
    return flat if not path.exists() and flat.exists() else path
