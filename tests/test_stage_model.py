import json
import subprocess
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mcl_clip.errors import UserError
from mcl_clip.models.stage_model import (
    load_stage_model,
    model_hash,
    save_stage_model,
)
from mcl_clip.openclip.tokenizers import HFTokenizer
from tests.tiny_models import TINY, tiny_images, tiny_model, word_tokenizer


def save(model, directory, cfg=None, **kwargs):
    cfg = cfg or TINY["vit"]
    save_stage_model(model, directory, model_cfg=cfg, preprocess_cfg=model.visual.preprocess_cfg, **kwargs)
    return directory


@pytest.mark.parametrize("kind", ["vit", "vit-custom-text", "resnet", "siglip", "timm-vit"])
@torch.no_grad()
def test_round_trip_is_bit_exact_and_in_eval_mode(tmp_path, kind):
    model = tiny_model(kind, seed=1)
    again, preprocess, tokenizer = load_stage_model(save(model, tmp_path / "stage", TINY[kind]))
    assert not any(module.training for module in again.modules())
    state = model.state_dict()
    assert state.keys() == again.state_dict().keys()
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in state.items())
    images, texts = tiny_images(model, 2), tokenizer(["a cat", "two dogs"])
    assert texts.shape == (2, 16)
    assert torch.equal(model.encode_image(images), again.encode_image(images))
    assert torch.equal(model.encode_text(texts), again.encode_text(texts))
    assert preprocess(Image.new("RGB", (300, 200))).shape == images.shape[1:]


def test_a_process_without_mcl_clip_loads_it(tmp_path):
    model = tiny_model("vit", seed=1, quick_gelu=True)
    save(model, tmp_path / "stage", extra={"stage": 1})
    script = (
        "import sys, json, open_clip, torch\n"
        "model, _, preprocess = open_clip.create_model_and_transforms('local-dir:' + sys.argv[1])\n"
        "model.eval()\n"
        "assert not any(name.startswith('mcl_clip') for name in sys.modules)\n"
        "with torch.no_grad(): print(json.dumps(model.encode_image(torch.ones(1, 3, 32, 32)).tolist()))\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "stage")], capture_output=True, text=True, check=True
    )
    with torch.no_grad():
        assert json.loads(out.stdout) == model.encode_image(torch.ones(1, 3, 32, 32)).tolist()


@torch.no_grad()
def test_quick_gelu_and_sigmoid_bias_stand_in_the_saved_configuration(tmp_path):
    model = tiny_model("vit", seed=1, quick_gelu=True, init_logit_bias=-10.0)
    directory = save(model, tmp_path / "stage")
    config = json.loads((directory / "open_clip_config.json").read_text())["model_cfg"]
    assert config["quick_gelu"] is True and config["init_logit_bias"] == -10.0
    again, _, _ = load_stage_model(directory)
    assert torch.equal(again.logit_bias, model.logit_bias)
    plain = tiny_model("vit", seed=1)
    images = torch.ones(1, 3, 32, 32)
    assert torch.equal(again.encode_image(images), model.encode_image(images))
    assert not torch.equal(plain.encode_image(images), model.encode_image(images))


def test_context_length_image_size_and_preprocessing_survive(tmp_path):
    model = tiny_model("vit", seed=1, image_size=48, context_length=9)
    preprocess_cfg = model.visual.preprocess_cfg | {"mean": (0.5, 0.5, 0.5), "interpolation": "bilinear"}
    save_stage_model(model, tmp_path / "s", model_cfg=TINY["vit"], preprocess_cfg=preprocess_cfg)
    again, _, tokenizer = load_stage_model(tmp_path / "s")
    assert again.visual.image_size == (48, 48) and tokenizer("x").shape == (1, 9)
    assert list(again.visual.preprocess_cfg["mean"]) == [0.5, 0.5, 0.5]
    assert again.visual.preprocess_cfg["interpolation"] == "bilinear"


def test_a_hugging_face_tokenizer_travels_with_the_model(tmp_path):
    words = word_tokenizer(tmp_path / "words")
    cfg = json.loads(json.dumps(TINY["vit"]))
    cfg["text_cfg"] |= {"hf_tokenizer_name": str(words), "tokenizer_kwargs": {"clean": "canonicalize"}}
    save(tiny_model("vit", seed=1), tmp_path / "stage", cfg)
    _, _, tokenizer = load_stage_model(tmp_path / "stage")
    ours = tokenizer(["A red, square"])
    assert torch.equal(ours, HFTokenizer(str(words), 16, clean="canonicalize")("a red square"))
    cfg["text_cfg"]["hf_tokenizer_name"] = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match="tokenizer"):
        save(tiny_model("vit", seed=1), tmp_path / "other", cfg)
    assert not (tmp_path / "other").exists()


def test_frozen_batch_norm_and_tied_tensors_are_stored_so_that_a_plain_model_loads(tmp_path):
    model = tiny_model("resnet", seed=1)
    model.lock_image_tower(freeze_bn_stats=True)
    again, _, _ = load_stage_model(save(model, tmp_path / "stage", TINY["resnet"]))
    assert torch.equal(again.visual.bn1.running_mean, model.visual.bn1.running_mean)
    tied = tiny_model("vit", seed=1)
    tied.visual.transformer.resblocks[1].ln_1.weight = tied.visual.transformer.resblocks[0].ln_1.weight
    weights = load_file(save(tied, tmp_path / "tied") / "open_clip_model.safetensors")
    assert weights.keys() == tied.state_dict().keys()


def test_hash_tells_weights_and_architecture_apart_and_nothing_else(tmp_path):
    first = save(tiny_model("vit", seed=1), tmp_path / "a", extra={"stage": 0})
    same = save(tiny_model("vit", seed=1), tmp_path / "b", extra={"stage": 1})
    other = save(tiny_model("vit", seed=2), tmp_path / "c")
    gelu = save(tiny_model("vit", seed=1, quick_gelu=True), tmp_path / "d")
    assert model_hash(first) == model_hash(same)
    assert len({model_hash(first), model_hash(other), model_hash(gelu)}) == 3


def test_loading_leaves_the_global_random_state_alone(tmp_path):
    save(tiny_model("vit", seed=1), tmp_path / "stage")
    before = torch.get_rng_state()
    load_stage_model(tmp_path / "stage")
    assert torch.equal(before, torch.get_rng_state())


def test_damage_is_refused_with_a_reason(tmp_path):
    directory = save(tiny_model("vit", seed=1), tmp_path / "stage")
    weights = directory / "open_clip_model.safetensors"
    whole = weights.read_bytes()
    for damaged in (whole[:-100], whole[:5], b"\x80\x04" + whole):
        weights.write_bytes(damaged)
        with pytest.raises(UserError, match="truncated"):
            load_stage_model(directory)
    weights.unlink()
    with pytest.raises(UserError, match="has no open_clip_model"):
        load_stage_model(directory)
    save(tiny_model("resnet", seed=1), directory)
    with pytest.raises(UserError, match="belong together"):
        load_stage_model(directory)
    with pytest.raises(UserError, match="not a stage directory"):
        load_stage_model(tmp_path)
