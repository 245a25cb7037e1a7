"""A model's tokenizer comes from files, and from no code that lies beside them."""

import json

import pytest

from mcl_clip.errors import UserError
from mcl_clip.fusion.build import open_tokenizer
from mcl_clip.openclip import tokenizers
from mcl_clip.openclip.tokenizers import get_tokenizer
from tests.tiny_models import word_tokenizer

EVIL = "import pathlib\npathlib.Path('ran').touch()\n"


def configured(directory, **kwargs):
    """A model directory, as far as a tokenizer asks, with the words of `word_tokenizer`."""
    word_tokenizer(directory)
    text = {"context_length": 8, "hf_tokenizer_name": ".", "tokenizer_kwargs": kwargs}
    (directory / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"text_cfg": text}}))
    return directory


def test_code_beside_a_tokenizer_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = configured(tmp_path / "model", trust_remote_code=True)
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (folder / "evil.py").write_text(EVIL)
    with pytest.raises(UserError, match="holds 'trust_remote_code'"):
        open_tokenizer(folder)
    monkeypatch.setattr(tokenizers, "download_pretrained_from_hf", lambda *_, **__: folder / "open_clip_config.json")
    with pytest.raises(UserError, match=r"hf-hub:a/b: .*'trust_remote_code'"):
        get_tokenizer("hf-hub:a/b")
    assert not (tmp_path / "ran").exists()


def test_what_open_clips_own_models_ask_for_is_handed_on(tmp_path):
    tokenizer = get_tokenizer(f"local-dir:{configured(tmp_path, clean='canonicalize')}")
    assert tokenizer(["A red, square!"])[0, :3].tolist() == [2, 4, 6]
