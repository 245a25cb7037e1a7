"""Tokenizers by class, and by a model's name without running what its configuration may name."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import open_clip.factory
from open_clip.factory import _get_hf_config
from open_clip.tokenizer import HFTokenizer as HFTokenizer
from open_clip.tokenizer import SimpleTokenizer as SimpleTokenizer

from mcl_clip.errors import UserError
from mcl_clip.openclip.configs import get_model_config, parse_model_name

HARMLESS = {
    "add_bos", "add_bos_token", "add_eos", "add_eos_token", "add_prefix_space", "additional_special_tokens",
    "bos_token", "clean", "clean_up_tokenization_spaces", "cls_token", "do_lower_case", "eos_token", "extra_ids",
    "language", "legacy", "mask_token", "model_max_length", "pad_token", "padding_side", "reduction_mask", "sep_token",
    "src_lang", "strip_sep_token", "tgt_lang", "truncation_side", "unk_token", "use_fast",
}  # fmt: skip
"""What `tokenizer_kwargs` may hold: how text is cut into tokens; no code, no file and no place where one is had."""


def get_tokenizer(model_name: str, context_length: int | None = None, cache_dir: str | None = None) -> Any:
    """Open_clip's, which hands `tokenizer_kwargs` of a model's configuration on as they are; `UserError` for others
    than the harmless ones, such as `trust_remote_code`."""
    check_arguments(_place(model_name), _text_cfg(model_name, cache_dir).get("tokenizer_kwargs", {}))
    with _no_code():
        return open_clip.get_tokenizer(model_name, context_length=context_length, cache_dir=cache_dir)


@contextlib.contextmanager
def _no_code() -> Iterator[None]:
    """Inside, open_clip's factory says no outright: left open, transformers asks at a terminal whether code may run."""

    def without_code(*args: Any, **kwargs: Any) -> HFTokenizer:
        return HFTokenizer(*args, **kwargs | {"trust_remote_code": False})

    open_clip.factory.HFTokenizer = without_code
    try:
        yield
    finally:
        open_clip.factory.HFTokenizer = HFTokenizer


def _text_cfg(model_name: str, cache_dir: str | None) -> Mapping[str, Any]:
    """The text tower's part of the configuration that open_clip reads for its tokenizer; empty where it has none."""
    schema, identifier = parse_model_name(model_name)
    if schema == "hf-hub":
        try:
            config = _get_hf_config(identifier, cache_dir=cache_dir).get("model_cfg")
        except Exception:  # whatever it is, open_clip goes on with the repository's tokenizer
            config = None
    else:
        config = get_model_config(model_name)
    text_cfg = config.get("text_cfg", {}) if isinstance(config, Mapping) else {}
    if not isinstance(text_cfg, Mapping):
        raise UserError(f"{_place(model_name)}: text_cfg is not an object")
    return text_cfg


def check_arguments(place: str, given: Any) -> None:
    """`UserError`, which names the `place` of a configuration, for `tokenizer_kwargs` that are not all harmless."""
    if not isinstance(given, Mapping):
        raise UserError(f"{place}: tokenizer_kwargs is not an object")
    for key, value in given.items():
        if key not in HARMLESS or not _is_plain(value):
            raise UserError(
                f"{place}: tokenizer_kwargs has {key!r}: {json.dumps(value)[:60]}, which may run code or "
                "read files from elsewhere; take it out if the tokenizer works without"
            )


def _is_plain(value: Any) -> bool:
    scalars = value if isinstance(value, list) else [value]
    return all(each is None or isinstance(each, str | int | float) for each in scalars)


def _place(model_name: str) -> str:
    schema, identifier = parse_model_name(model_name)
    return f"{identifier}/open_clip_config.json" if schema == "local-dir" else model_name
