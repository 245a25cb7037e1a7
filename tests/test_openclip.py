"""The one door: no name of open_clip beyond those of its README is used anywhere else."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

HOST = ("open_clip", "open_clip_train")
ROOT = Path(__file__).parents[1]
README = {"create_model_and_transforms", "list_pretrained", "decode"}
PEERS = {
    "ClipLoss", "SigLipLoss", "DistillClipLoss", "gather_features", "train_one_epoch", "get_clip_metrics",
    "random_seed", "data", "get_tokenizer",
}  # fmt: skip
"""What tests and benchmarks hold us against: open_clip's own losses, loop, metrics, reader and tokenizer."""
FOLDERS = {
    "mcl_clip": README,
    "training": README,
    "eval": README,
    "demo": README,
    "benchmarks": README | PEERS,
    "tests": README | PEERS,
}


def names_of_open_clip(source: str) -> Iterator[str]:
    """Every name that a module takes from open_clip or open_clip_train."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.ImportFrom(module=str(module), level=0) if module.split(".")[0] in (
                "open_clip",
                "open_clip_train",
            ):
                yield from (alias.name for alias in node.names)
            case ast.Import():
                dotted = (alias.name.split(".") for alias in node.names)
                yield from (
                    parts[-1] for parts in dotted if parts[0].startswith("open_clip") and parts != ["open_clip"]
                )
            case ast.Attribute(value=ast.Name(id="open_clip")):
                yield node.attr


@pytest.mark.parametrize("folder", FOLDERS)
def test_open_clip_is_used_through_the_door_alone(folder):
    for path in sorted((ROOT / folder).rglob("*.py")):
        if path.parent != ROOT / "mcl_clip" / "openclip":
            surplus = set(names_of_open_clip(path.read_text())) - FOLDERS[folder]
            assert not surplus, f"{path.relative_to(ROOT)} takes {sorted(surplus)} past mcl_clip/openclip"


def test_every_way_of_taking_a_name_is_seen():
    imports = "import open_clip, open_clip_train.params, x.open_clip\nfrom open_clip.loss import a, b as c"
    source = f"{imports}\nopen_clip.d()"
    assert list(names_of_open_clip(source)) == ["params", "a", "b", "d"]
