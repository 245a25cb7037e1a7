"""Models and tokenizers from a folder's open_clip_config.json alone: the weights of a fused model lie elsewhere."""

import contextlib
import copy
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from mcl_clip.errors import UserError
from mcl_clip.models.image_model import is_image_model
from mcl_clip.models.image_stage import build_image_model, is_image_stage, placed
from mcl_clip.openclip.models import create_model
from mcl_clip.openclip.tokenizers import get_tokenizer


def open_tokenizer(folder: Path) -> Any:
    """The tokenizer of a stage's folder, None for images alone; `UserError` when open_clip cannot load it."""
    if is_image_stage(folder):
        return None
    try:
        return get_tokenizer(f"local-dir:{folder}")
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder} has no tokenizer that open_clip can load ({reason}); copy it again") from None


def build_untrained(folder: Path, config: Mapping[str, Any], precision: str, templates: dict[str, Any]) -> Any:
    """An untrained model of a stage's architecture; equal architectures are built once and copied."""
    key = repr(config["model_cfg"]) + repr(config.get("preprocess_cfg"))
    if key not in templates:
        try:
            with torch.random.fork_rng(devices=[]), silent_factory():
                if is_image_model(config):
                    templates[key] = placed(build_image_model(config), "cpu", precision).eval()
                else:
                    templates[key] = create_model(f"local-dir:{folder}", precision=precision, load_weights=False)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{folder} does not describe a model that open_clip can build ({reason})") from None
    return copy.deepcopy(templates[key])


@contextlib.contextmanager
def silent_factory() -> Iterator[None]:
    """Drop open_clip's warning that the model it builds has no weights yet."""

    def keep(record: logging.LogRecord) -> bool:
        return record.module != "factory"

    root = logging.getLogger()
    root.addFilter(keep)
    try:
        yield
    finally:
        root.removeFilter(keep)
