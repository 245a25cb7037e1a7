"""A text tower of Hugging Face's: stage, fused and exported directories need nothing outside themselves."""

import json
import shutil

import open_clip
import pytest
import torch

import mcl_clip
from mcl_clip.fusion.files import save_fused
from mcl_clip.fusion.hub_export import export_hf
from mcl_clip.fusion.load import fuse
from mcl_clip.models.stage_model import load_stage_model, save_stage_model
from mcl_clip.openclip.configs import add_model_config
from tests.tiny_models import VIT, hugging_face_text


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """(text embedding as trained, folder with stage, fused and exported) after the text tower's folder went away."""
    root = tmp_path_factory.mktemp("training-machine")
    cfg = {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": hugging_face_text(root / "bert")}
    (root / "tiny-bert-beside.json").write_text(json.dumps(cfg))
    add_model_config(root / "tiny-bert-beside.json")
    model = open_clip.create_model_and_transforms("tiny-bert-beside")[0].eval()
    tokenizer = open_clip.get_tokenizer("tiny-bert-beside")
    preprocess_cfg = dict(model.visual.preprocess_cfg)
    save_stage_model(model, root / "stage", model_cfg=cfg, preprocess_cfg=preprocess_cfg, tokenizer=tokenizer)
    fused = fuse([root / "stage"])
    save_fused(fused, root / "fused")
    export_hf(fused, root / "exported")
    shutil.rmtree(root / "bert")
    there = tmp_path_factory.mktemp("elsewhere") / "moved"
    root.rename(there)
    with torch.no_grad():
        return model.encode_text(tokenizer(["a red square"])), there, str(root)


@pytest.mark.parametrize("name", ["stage", "fused", "exported"])
@torch.no_grad()
def test_it_loads_where_the_text_towers_folder_is_not(moved, name):
    expected, there, _ = moved
    model, _, tokenizer = mcl_clip.load(there / name)
    assert torch.equal(model.encode_text(tokenizer(["a red square"])), expected)


@pytest.mark.parametrize("name", ["stage", "fused", "exported"])
def test_no_path_of_the_training_machine_is_stored(moved, name):
    _, there, before = moved
    files = [file for file in (there / name).rglob("*") if file.is_file()]
    assert len(files) > 4 and not [file for file in files if before.encode() in file.read_bytes()]


@torch.no_grad()
def test_what_was_loaded_can_be_stored_again(moved, tmp_path):
    expected, there, _ = moved
    fused, _, _ = mcl_clip.load(there / "exported")
    save_fused(fused, tmp_path / "again")
    assert torch.equal(load_text(mcl_clip.load(tmp_path / "again")), expected)
    config = json.loads((tmp_path / "again/stages/0/open_clip_config.json").read_text())
    assert config["model_cfg"]["text_cfg"]["hf_model_name"] == "text"
    config = json.loads((tmp_path / "again/stages/0/tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"  # transformers 4 reads it too
    assert torch.equal(load_text(load_stage_model(there / "stage")), expected)


def load_text(loaded):
    model, _, tokenizer = loaded
    return model.encode_text(tokenizer(["a red square"]))
