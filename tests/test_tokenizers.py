"""A model's configuration names its tokenizer's arguments; none of them runs code of the model's directory."""

import json
import shutil

import huggingface_hub
import open_clip
import pytest
import torch

import mcl_clip
from mcl_clip.errors import UserError
from mcl_clip.fusion.files import load_fused, save_fused
from mcl_clip.fusion.take_over import open_stage
from mcl_clip.models.stage_model import load_stage_model, save_stage_model
from mcl_clip.openclip.configs import add_model_config, get_model_config, list_models
from mcl_clip.openclip.tokenizers import check_arguments, get_tokenizer
from tests.test_fused_model import fused_of, vit
from tests.test_take_over import hub_cache
from tests.tiny_models import TINY, word_tokenizer
from training.build import build_from_stage


def spoil(folder, arguments):
    """Let a stage's folder hold a tokenizer of its own code, and ask open_clip for it with `arguments`."""
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["text_cfg"] |= {"hf_tokenizer_name": ".", "tokenizer_kwargs": arguments}
    path.write_text(json.dumps(config))
    own = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(own))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nraise ValueError('it ran')\n")


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    """A stage and a fused model whose tokenizers are code of their own."""
    root, model = tmp_path_factory.mktemp("evil"), vit(1)
    save_stage_model(model, root / "stage", model_cfg=TINY["vit"], preprocess_cfg=model.visual.preprocess_cfg)
    save_fused(fused_of(vit(1), vit(2)), root / "fused")
    for folder in (root / "stage", root / "fused" / "stages" / "0"):
        spoil(folder, {"trust_remote_code": True})
    return root


def ways(root):
    yield lambda: load_stage_model(root / "stage")
    yield lambda: load_fused(root / "fused")
    yield lambda: mcl_clip.load(str(root / "fused"))
    yield lambda: open_stage("ViT-B-32", root / "stage" / "open_clip_model.safetensors")
    yield lambda: build_from_stage(root / "stage", "fp32", torch.device("cpu"))
    yield lambda: get_tokenizer(f"local-dir:{root / 'stage'}")


@pytest.mark.filterwarnings("ignore:.*is used as the")
def test_no_way_to_a_model_runs_code_of_its_directory(evil):
    for load in ways(evil):
        with pytest.raises(UserError, match=r"open_clip_config.json: tokenizer_kwargs has 'trust_remote_code': true"):
            load()
    assert not list(evil.rglob("ran"))


def test_a_repository_of_the_hub_is_checked_alike(evil, tmp_path, monkeypatch):
    hub_cache(tmp_path, "owner/evil", lambda folder: shutil.copytree(evil / "stage", folder))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="hf-hub:owner/evil: tokenizer_kwargs has 'trust_remote_code'"):
        get_tokenizer("hf-hub:owner/evil")


def test_code_of_a_tokenizer_is_refused_without_a_question(evil, tmp_path, monkeypatch):
    folder = shutil.copytree(evil / "stage", tmp_path / "stage")
    spoil(folder, {"clean": "whitespace"})
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    (folder / "config.json").write_text(json.dumps({"model_type": "evil"}))
    with pytest.raises((ValueError, OSError, KeyError)):
        get_tokenizer(f"local-dir:{folder}")
    assert not list(folder.rglob("ran"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"bpe_path": "/dev/zero"}, "tokenizer_kwargs has 'bpe_path'"),
        ({"clean": "lower", "code_revision": "main"}, "tokenizer_kwargs has 'code_revision'"),
        ({"pad_token": {"__type": "AddedToken"}}, "tokenizer_kwargs has 'pad_token'"),
        (["trust_remote_code"], "tokenizer_kwargs is not an object"),
    ],
)
def test_what_is_not_known_to_be_harmless_is_refused(arguments, said):
    with pytest.raises(UserError, match=f"^here: {said}"):
        check_arguments("here", arguments)


def test_all_configurations_of_open_clip_pass():
    given = [(get_model_config(name).get("text_cfg") or {}).get("tokenizer_kwargs", {}) for name in list_models()]
    assert sum(map(bool, given)) > 20
    for arguments in given:
        check_arguments("open_clip", arguments)


def test_arguments_reach_the_tokenizer(tmp_path):
    word_tokenizer(tmp_path)
    text = {"hf_tokenizer_name": str(tmp_path), "context_length": 8, "tokenizer_kwargs": {"clean": "canonicalize"}}
    (tmp_path / "tiny-words.json").write_text(json.dumps({"embed_dim": 8, "vision_cfg": {}, "text_cfg": text}))
    add_model_config(tmp_path / "tiny-words.json")
    for name in ("tiny-words", "ViT-B-32", "a name that is nowhere"):
        ours, theirs = get_tokenizer(name), open_clip.get_tokenizer(name)
        assert ours(["A red, RED square."]).equal(theirs(["A red, RED square."]))
    assert get_tokenizer("tiny-words", context_length=5)(["a red"]).shape == (1, 5)
