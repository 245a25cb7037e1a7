"""Tokenizers by class, and that of a model."""

import json
from pathlib import Path
from typing import Any

import open_clip
from open_clip.tokenizer import HFTokenizer as HFTokenizer
from open_clip.tokenizer import SimpleTokenizer as SimpleTokenizer

from mcl_clip.errors import UserError
from mcl_clip.openclip.configs import parse_model_name
from mcl_clip.openclip.downloads import download_pretrained_from_hf

CONFIG_NAME = "open_clip_config.json"
_KNOWN = {
    *("clean", "language", "strip_sep_token", "additional_special_tokens", "reduction_mask", "src_lang", "tgt_lang"),
    *("use_fast", "add_prefix_space", "do_lower_case", "model_max_length", "padding_side", "truncation_side", "legacy"),
    *("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"),
}


def get_tokenizer(name: str, cache_dir: str | None = None, context_length: int | None = None) -> Any:
    """open_clip's tokenizer of a model; `UserError` for a configuration that could make it run a directory's code.

    open_clip hands `tokenizer_kwargs` of a configuration to transformers, which runs such code for `trust_remote_code`.
    """
    schema, identifier = parse_model_name(name)
    if schema == "local-dir":
        _check(name, Path(identifier) / CONFIG_NAME)
    elif schema == "hf-hub":
        try:
            path = download_pretrained_from_hf(identifier, filename=CONFIG_NAME, cache_dir=cache_dir)
        except Exception:  # open_clip then goes without the configuration, and without what it would ask for
            path = None
        if path:
            _check(name, Path(path))
    return open_clip.get_tokenizer(name, cache_dir=cache_dir, context_length=context_length)


def _check(name: str, path: Path) -> None:
    try:
        asked = json.loads(path.read_text(encoding="utf-8"))["model_cfg"]["text_cfg"]["tokenizer_kwargs"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # nothing is asked, or open_clip says what is wrong
    if isinstance(asked, dict) and (foreign := sorted(set(asked) - _KNOWN)):
        raise UserError(
            f"{name}: tokenizer_kwargs of its {CONFIG_NAME} holds {foreign[0]!r}, which is not handed to a tokenizer; "
            "take it out if you trust the model without it"
        )
