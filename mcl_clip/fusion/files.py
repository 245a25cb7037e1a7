"""A fused model on disk: every tensor once, every stage recoverable, nothing that runs code.

mcl_config.json                     format, fusion, which stage's tensor each stage uses, card
model.safetensors                   "STAGE/NAME" for each tensor that an earlier stage does not have; the logit scale
stages/STAGE/open_clip_config.json  open_clip's configuration of that stage (tokenizer files beside stage 0's);
                                    of images alone timm's config.json
README.md                           the model card
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mcl_clip.artifacts import atomic_directory, read_json, sha256_file, write_json
from mcl_clip.errors import UserError
from mcl_clip.fusion.build import build_untrained, open_tokenizer
from mcl_clip.fusion.card import card_text
from mcl_clip.fusion.fused_images import FusedImages
from mcl_clip.fusion.fused_model import fuse_opened
from mcl_clip.fusion.output import MCL_CONFIG_NAME, check_output
from mcl_clip.fusion.shared_blocks import identical
from mcl_clip.fusion.stages import Stage
from mcl_clip.models.image_model import is_image_model
from mcl_clip.models.image_stage import TIMM_CONFIG_NAME
from mcl_clip.models.stage_model import (
    CONFIG_NAME,
    complete_model_cfg,
    read_stage_config,
    save_stage_model,
    save_text_config,
    save_tokenizer,
    storable_state,
)

FORMAT, VERSION = "mcl_clip.fused", 1
FUSED_WEIGHTS_NAME = "model.safetensors"
_LOW_PRECISIONS = ("fp16", "bf16", "pure_fp16", "pure_bf16")


def save_fused(model: FusedImages, directory: str | os.PathLike, card: Mapping[str, Any] | None = None) -> None:
    """Write a fused model, atomically; `load_fused` gives it back bit for bit.

    `card` (see `card_text`) replaces the model's own. Raises `UserError` when a tokenizer cannot be stored, or
    `directory` holds anything but an older fused model.
    """
    check_output(directory)
    card = dict(model.card if card is None else card)
    states = [storable_state(stage) for stage in model.stages]
    owners = [_owners(states, number) for number in range(len(states))]
    tensors = {
        f"{number}/{name}": tensor
        for number, state in enumerate(states)
        for name, tensor in state.items()
        if owners[number][name] == number
    }
    tensors |= {name: getattr(model, name).detach().cpu() for name in _logit_names(model)}
    with atomic_directory(directory) as temporary:
        save_file(tensors, temporary / FUSED_WEIGHTS_NAME)
        for number, stage in enumerate(model.stage_info):
            folder = temporary / "stages" / str(number)
            folder.mkdir(parents=True)
            _save_stage(stage, folder, with_tokenizer=number == 0)
        config = {
            "format": FORMAT,
            "version": VERSION,
            "fusion": model.fusion,
            "weights": model.weights,
            "collapsed": model.collapsed,
            "sharing": model.sharing,
            "stages": [
                {
                    "source": public(stage.source),
                    "tensors_of": {name: at for name, at in owner.items() if at != number},
                }
                for number, (stage, owner) in enumerate(zip(model.stage_info, owners, strict=True))
            ],
            "sha256": sha256_file(temporary / FUSED_WEIGHTS_NAME),
            "card": card,
        }
        (temporary / "README.md").write_text(card_text(config, model))
        write_json(temporary / MCL_CONFIG_NAME, config)


def _save_stage(stage: Stage, folder: Path, with_tokenizer: bool) -> None:
    """What a stage is built from again, but for its weights."""
    model_cfg = complete_model_cfg(stage.model, stage.config["model_cfg"])
    if is_image_model(stage.config):
        write_json(folder / TIMM_CONFIG_NAME, stage.config)
        return
    write_json(folder / CONFIG_NAME, stage.config | {"model_cfg": model_cfg})
    save_text_config(stage.model, model_cfg["text_cfg"], folder)
    if with_tokenizer and model_cfg["text_cfg"].get("hf_tokenizer_name"):
        save_tokenizer(stage.tokenizer, model_cfg["text_cfg"], folder)


def load_fused(
    directory: str | os.PathLike, device: str | torch.device = "cpu", precision: str = "fp32"
) -> FusedImages:
    """Load what `save_fused` wrote, in evaluation mode; no file in it can run code.

    Raises `UserError` when the directory is foreign, of a newer version, truncated or altered.
    """
    directory = Path(directory)
    config = read_fused_config(directory)
    tensors = _read_weights(directory, config, half=precision in _LOW_PRECISIONS)
    stages: list[Stage] = []
    templates: dict[str, Any] = {}
    for number, entry in enumerate(config["stages"]):
        folder = directory / "stages" / str(number)
        stage_config = read_stage_config(folder)
        model = build_untrained(folder, stage_config, precision, templates)
        own = {key.partition("/")[2]: key for key in tensors if key.startswith(f"{number}/")}
        keys = own | {name: f"{owner}/{name}" for name, owner in entry["tensors_of"].items()}
        try:
            state = {name: tensors[key] for name, key in keys.items()}
            model.load_state_dict(state, assign=precision not in _LOW_PRECISIONS)
        except (KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{directory}: stage {number} and its tensors do not fit ({reason})") from None
        tokenizer = stages[0].tokenizer if stages else open_tokenizer(folder)
        stages.append(Stage(model, stage_config, tokenizer, str(entry.get("source", ""))))
    try:
        fused = fuse_opened(
            stages, config["fusion"], config["weights"], config["card"], collapsed=bool(config["collapsed"])
        )
        for name in set(_logit_names(fused)) & tensors.keys():
            getattr(fused, name).data.copy_(tensors[name].reshape(getattr(fused, name).shape))
    except UserError:
        raise
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"{directory}: the stages do not make one model ({' '.join(str(error).split())[:200]})"
        ) from None
    return fused.to(device)


def extract_stage(model: FusedImages, number: int, directory: str | os.PathLike) -> None:
    """Write one stage of a fused model as a directory that open_clip loads."""
    stage = model.stage_info[number]
    config = stage.config
    extra = config.get("mcl_clip", {})
    save_stage_model(
        stage.model,
        directory,
        model_cfg=config["model_cfg"],
        preprocess_cfg=config["preprocess_cfg"],
        extra=extra,
        tokenizer=stage.tokenizer,
    )


def is_fused(directory: str | os.PathLike) -> bool:
    """Whether a directory has a fused model's configuration."""
    return (Path(directory) / MCL_CONFIG_NAME).is_file()


def read_fused_config(directory: str | os.PathLike) -> dict[str, Any]:
    """The checked `mcl_config.json`; `UserError` when it is foreign, newer or not whole."""
    path = Path(directory) / MCL_CONFIG_NAME
    config = read_json(path)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise UserError(f"{path} is not a fused model of mcl_clip")
    if config.get("version") != VERSION:
        raise UserError(f"{path} has version {config.get('version')}, this mcl_clip reads {VERSION}: upgrade mcl_clip")
    entries, weights = config.get("stages"), config.get("weights")
    whole = isinstance(entries, list) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("tensors_of"), dict)
        and all(isinstance(owner, int) for owner in entry["tensors_of"].values())
        for entry in entries
    )
    numbers = isinstance(weights, list) and all(isinstance(weight, int | float) for weight in weights)
    whole = whole and (weights is None or numbers) and isinstance(config.get("card"), dict)
    if not whole or not {"fusion", "weights", "collapsed", "sha256"} <= config.keys():
        raise UserError(f"{path} is not whole; fuse the stages again with mcl-fuse")
    return config


def _read_weights(directory: Path, config: Mapping[str, Any], half: bool) -> dict[str, torch.Tensor]:
    path = directory / FUSED_WEIGHTS_NAME
    if not path.is_file():
        raise UserError(f"{directory} has no {FUSED_WEIGHTS_NAME}; copy it beside {MCL_CONFIG_NAME}")
    try:
        mapped = load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is truncated or no safetensors file ({error}); copy it again") from None
    if sha256_file(path) != config["sha256"]:
        raise UserError(f"{path} is not the file that {MCL_CONFIG_NAME} was written with (SHA-256 differs)")
    # A matrix-vector product on the CPU adds in another order when a matrix is not aligned to 16 bytes, as tensors
    # in a mapped file are not: copies make a batch of one equal to the stage's own, and outlive the file.
    halves = () if half else (torch.float16, torch.bfloat16)
    return {name: tensor.float() if tensor.dtype in halves else tensor.clone() for name, tensor in mapped.items()}


def _owners(states: list[dict[str, torch.Tensor]], number: int) -> dict[str, int]:
    """For each tensor of a stage, the first stage that has it bit for bit under the same name."""
    return {
        name: next(
            earlier
            for earlier, state in enumerate(states[: number + 1])
            if name in state and identical(state[name], tensor)
        )
        for name, tensor in states[number].items()
    }


def _logit_names(model: FusedImages) -> list[str]:
    return [name for name in ("logit_scale", "logit_bias") if getattr(model, name, None) is not None]


def public(source: str) -> str:
    """Where a stage came from, without the directories of the machine that it was on."""
    return "/".join(Path(source).parts[-2:]) if os.path.isabs(source) else source
