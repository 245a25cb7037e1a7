"""A stage's model on disk: a directory that plain open_clip loads, without mcl_clip."""

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from mcl_clip.artifacts import atomic_directory, read_json, sha256_file, sha256_json, write_json
from mcl_clip.errors import UserError
from mcl_clip.models.image_model import ImageModel
from mcl_clip.models.image_stage import (
    PROJECTION_NAME,
    TIMM_CONFIG_NAME,
    is_image_stage,
    load_image_stage,
    save_image_stage,
)
from mcl_clip.openclip.models import TEXT_FOLDER, create_model
from mcl_clip.openclip.tokenizers import HFTokenizer, check_arguments, get_tokenizer
from mcl_clip.openclip.towers import QuickGELU
from mcl_clip.openclip.transforms import PreprocessCfg, image_transform_v2

CONFIG_NAME = "open_clip_config.json"
WEIGHTS_NAME = "open_clip_model.safetensors"
_WEIGHTS_NAMES = (WEIGHTS_NAME, "open_clip_pytorch_model.safetensors", "model.safetensors")


def save_stage_model(
    model: nn.Module,
    directory: str | os.PathLike,
    *,
    model_cfg: Mapping[str, Any],
    preprocess_cfg: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
    tokenizer: Any = None,
) -> None:
    """Write an open_clip model as `open_clip_config.json` and `open_clip_model.safetensors`, atomically.

    (A model of images alone as `image_stage` has it.)
    `open_clip.create_model_and_transforms("local-dir:DIRECTORY")` loads it. `model_cfg` is open_clip's
    configuration of the architecture; what the weights need besides (see `complete_model_cfg`) is added.
    `extra` is kept under `mcl_clip` in the configuration. `tokenizer` is an open_clip tokenizer; one from
    Hugging Face is stored in the directory, because open_clip looks for it there, and the configuration of
    Hugging Face's text tower in `text/`, so that nothing outside is needed. Raises `UserError` when that
    tokenizer cannot be had.
    """
    stored_cfg = complete_model_cfg(model, model_cfg)
    config = {"model_cfg": stored_cfg, "preprocess_cfg": dict(preprocess_cfg), "mcl_clip": dict(extra or {})}
    if isinstance(model, ImageModel):
        return save_image_stage(model, directory, config)
    with atomic_directory(directory) as temporary:
        save_file(storable_state(model), temporary / WEIGHTS_NAME)
        if model_cfg["text_cfg"].get("hf_tokenizer_name"):
            save_tokenizer(tokenizer, model_cfg["text_cfg"], temporary)
        save_text_config(model, model_cfg["text_cfg"], temporary)
        write_json(temporary / CONFIG_NAME, config)


def load_stage_model(
    directory: str | os.PathLike, device: str | torch.device = "cpu", precision: str = "fp32"
) -> tuple[nn.Module, Any, Any]:
    """Load a stage directory as (model in eval mode, preprocess for evaluation, tokenizer or None).

    `precision` is open_clip's. Raises `UserError` when the directory is not a whole open_clip model. The
    global random state is left as it was, although open_clip draws initial weights before it loads.
    """
    config = read_stage_config(directory)
    if is_image_stage(directory):
        images: Any = load_image_stage(directory, device, precision)
        return images, image_transform_v2(PreprocessCfg(**images.visual.preprocess_cfg), is_train=False), None
    weights = stage_weights(directory)
    try:
        with torch.random.fork_rng(devices=[]):
            model = create_model(f"local-dir:{directory}", precision=precision, device=device)
        tokenizer = get_tokenizer(f"local-dir:{directory}")
    except UserError:
        raise
    except (SafetensorError, EOFError) as error:
        raise UserError(f"{weights} is truncated or no safetensors file ({error}); write it again") from None
    except (RuntimeError, ValueError, KeyError, TypeError, OSError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        name = config["model_cfg"].get("vision_cfg", {}).get("timm_model_name", "")
        raise UserError(
            f"{directory} does not load as an open_clip model {name}({' '.join(reason[:2])}); "
            f"its {CONFIG_NAME} and weights must belong together"
        ) from None
    model.eval()
    return model, image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False), tokenizer


def model_hash(directory: str | os.PathLike) -> str:
    """SHA-256 of what a stage model computes: its architecture, its preprocessing and its weights' bytes."""
    config = read_stage_config(directory)
    files = [stage_weights(directory), *([head] if (head := Path(directory) / PROJECTION_NAME).is_file() else [])]
    return sha256_json([config["model_cfg"], config.get("preprocess_cfg", {}), *map(sha256_file, files)])


def complete_model_cfg(model: Any, model_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Open_clip's configuration from which `model` can be built again, whatever flags it was created with.

    Adds what `create_model` takes as flags or from a pretrained tag: QuickGELU (OpenAI's weights need it),
    a text tower of its own, the sigmoid form's bias, image size and context length. Paths of this machine
    become places beside the configuration: `text` and `.`, for Hugging Face's text tower and tokenizer.
    """
    config = copy.deepcopy(dict(model_cfg))
    if isinstance(model, ImageModel):
        return config
    vision, text = config["vision_cfg"], config["text_cfg"]
    config["quick_gelu"] = any(isinstance(module, QuickGELU) for module in model.modules())
    if hasattr(model, "text"):
        config["custom_text"] = True
    if getattr(model, "logit_bias", None) is not None:
        config.setdefault("init_logit_bias", float(model.logit_bias.detach().reshape(-1)[0]))
    if model.logit_scale.ndim:
        config["nonscalar_logit_scale"] = True
    size = model.visual.image_size
    size = size if isinstance(size, int) else list(size)
    vision["image_size"] = size if isinstance(size, int) or len(set(size)) > 1 else size[0]
    if not text.get("hf_model_name"):
        text["context_length"] = int(model.context_length)
    for key, beside in (("hf_model_name", TEXT_FOLDER), ("hf_tokenizer_name", ".")):
        if (name := text.get(key)) and (os.path.isabs(name) or os.path.isdir(name)):
            text[key] = beside
    return config


def storable_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """State dict on the host in safetensors' terms: contiguous, and no two names on one storage."""
    state: dict[str, torch.Tensor] = {}
    storages = set()
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        shared = storage in storages or tensor.untyped_storage().nbytes() != tensor.nbytes
        state[name] = tensor.clone() if shared else tensor
        storages.add(storage)
    return state


def save_tokenizer(tokenizer: Any, text_cfg: Mapping[str, Any], directory: Path) -> None:
    """Store a Hugging Face tokenizer's files beside the model, fetching them by name when none is given."""
    name = text_cfg["hf_tokenizer_name"]
    if tokenizer is None:
        arguments = text_cfg.get("tokenizer_kwargs") or {}
        check_arguments(f"the tokenizer {name}", arguments)
        try:
            tokenizer = HFTokenizer(name, trust_remote_code=False, **arguments)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"the tokenizer {name} of this model cannot be loaded ({reason})") from None
    tokenizer.save_pretrained(directory)
    path = directory / "tokenizer_config.json"
    if (config := read_json(path)).get("tokenizer_class") == "TokenizersBackend":
        # The name in transformers 5 of what 4 and 5 both read as:
        write_json(path, config | {"tokenizer_class": "PreTrainedTokenizerFast"})


def save_text_config(model: Any, text_cfg: Mapping[str, Any], directory: Path) -> None:
    """Store the configuration of Hugging Face's text tower beside the model, where there is one (see
    `openclip.models.text_beside`)."""
    if text_cfg.get("hf_model_name"):
        config = {name: value for name, value in model.text.config.to_diff_dict().items() if name != "_name_or_path"}
        (directory / TEXT_FOLDER).mkdir()
        write_json(directory / TEXT_FOLDER / "config.json", config)


def is_stage(directory: str | os.PathLike) -> bool:
    """Whether a directory has the configuration of a stage's model."""
    return (Path(directory) / CONFIG_NAME).is_file() or is_image_stage(directory)


def read_stage_config(directory: str | os.PathLike) -> dict[str, Any]:
    """The whole configuration of a stage directory, open_clip's or of images alone; `UserError` when it is not one."""
    path = Path(directory) / CONFIG_NAME
    if not path.is_file() and is_image_stage(directory):
        return read_json(Path(directory) / TIMM_CONFIG_NAME)
    if not path.is_file():
        raise UserError(f"{directory} is not a stage directory: it has no {CONFIG_NAME}")
    config = read_json(path)
    if not isinstance(config, dict) or not isinstance(config.get("model_cfg"), dict):
        raise UserError(f"{path} is not open_clip's: it has no model_cfg")
    return config


def has_weights(directory: str | os.PathLike) -> bool:
    """Whether a directory holds weights that `stage_weights` finds."""
    return any((Path(directory) / name).is_file() for name in _WEIGHTS_NAMES)


def stage_weights(directory: str | os.PathLike) -> Path:
    """The safetensors file of a stage directory; `UserError` when there is none (open_clip only warns)."""
    for name in _WEIGHTS_NAMES:
        if (path := Path(directory) / name).is_file():
            return path
    raise UserError(f"{directory} has no {WEIGHTS_NAME}: copy the weights beside {CONFIG_NAME}")
