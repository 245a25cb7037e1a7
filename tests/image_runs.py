"""Runs on images alone, of seconds."""

from pathlib import Path

import pytest
import timm
from packaging.version import Version

from tests.tars import write_shards
from tests.tiny_runs import command

READS_FOLDERS = pytest.mark.skipif(
    Version(timm.__version__) < Version("1.0.26"), reason="timm before 1.0.26 reads no safetensors from a folder"
)
WITHOUT_CAPTIONS = [(0, 1), (1, 0), (2, 3)]


def image_command(directory: Path, objective: str, *arguments: str, model: str = "mcl_tiny_conv") -> list[str]:
    """Flags of a run over 120 images of which three have no caption; as of `tiny_runs.command`."""
    if not (directory / "tars").exists():
        write_shards(directory / "tars", 3, 40, size=40, no_caption=WITHOUT_CAPTIONS)
    name = ("--model", f"timm/{model}", "--force-image-size", "32", "--mcl-projection-dim", "16")
    return command(directory, *name, "--mcl-objective", objective, *arguments)
