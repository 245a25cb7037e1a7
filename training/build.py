"""The model a stage starts from, locked and wrapped as open_clip's flags say."""

import contextlib
import copy
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, cast

import open_clip
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import mcl_clip.models  # noqa: F401  open_clip then knows our small models
from mcl_clip.artifacts import sha256_file
from mcl_clip.errors import UserError
from mcl_clip.models.described import check_configuration, described_directory
from mcl_clip.models.stage_model import complete_model_cfg, has_weights, model_hash, read_stage_config
from mcl_clip.models.synced_norm import synced
from mcl_clip.models.weights import read_weights
from mcl_clip.openclip.configs import get_model_config, parse_model_name
from mcl_clip.openclip.downloads import download_pretrained_from_hf
from mcl_clip.openclip.models import CLIP, CustomTextCLIP, create_model, text_beside, weights_read_by
from mcl_clip.openclip.tokenizers import get_tokenizer
from mcl_clip.seeds import words
from training.ranks import Ranks
from training.recipe import ModelRecipe, OptimizationRecipe, StageRecipe
from training.reporting import log

ContrastiveModel: TypeAlias = CLIP | CustomTextCLIP


@dataclass(frozen=True)
class BuiltModel:
    """An open_clip model with output_dict, in training mode, and what its stage directory needs besides the weights."""

    model: ContrastiveModel
    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any]
    tokenizer: Any

    @property
    def configuration(self) -> dict[str, Any]:
        """open_clip_config.json of the model."""
        return {"model_cfg": complete_model_cfg(self.model, self.model_cfg), "preprocess_cfg": self.preprocess_cfg}


def build_base(recipe: ModelRecipe, precision: str, seed: int, device: torch.device) -> BuiltModel:
    """Stage 0's model, from open_clip's flags; the same seed draws the same initial weights as open_clip_train does.

    Raises `UserError` when open_clip does not know the model or its weights.
    """
    if folder := described_directory(recipe.pretrained):
        log.info(f"--pretrained {recipe.pretrained} is used as the configuration beside it says, not as {recipe.model}")
        recipe = replace(recipe, model=f"local-dir:{folder}", pretrained="")
    model_cfg = _model_cfg(recipe)
    is_file = os.path.isfile(recipe.pretrained)
    reading = weights_read_by(read_weights) if is_file else contextlib.nullcontext()
    with _user_errors(f"--model {recipe.model} --pretrained {recipe.pretrained!r}"), reading, seeded(seed, device):
        model, _, _ = open_clip.create_model_and_transforms(
            recipe.model,
            recipe.pretrained,
            precision=precision,
            device=device,
            force_quick_gelu=recipe.force_quick_gelu,
            force_custom_text=recipe.force_custom_text,
            force_patch_dropout=recipe.force_patch_dropout,
            force_image_size=tuple(recipe.force_image_size)
            if isinstance(recipe.force_image_size, list)
            else recipe.force_image_size,
            force_context_length=recipe.force_context_length,
            image_mean=recipe.image_mean,
            image_std=recipe.image_std,
            image_interpolation=recipe.image_interpolation,
            image_resize_mode=recipe.image_resize_mode,
            pretrained_image=recipe.pretrained_image,
            output_dict=True,
            cache_dir=recipe.cache_dir,
            **_sigmoid_start(recipe),
            **text_beside(recipe.model),
        )
        tokenizer = get_tokenizer(recipe.model, cache_dir=recipe.cache_dir, context_length=recipe.force_context_length)
    if is_file:
        check_configuration(recipe.pretrained, model, model_cfg)
    return BuiltModel(model, model_cfg, dict(model.visual.preprocess_cfg), tokenizer)


def base_weights(recipe: ModelRecipe) -> str:
    """What stage 0's first weights are, as a name: that of the model and its weights, and the hash of local files."""
    schema, identifier = parse_model_name(recipe.model)
    name = f"{recipe.model} {recipe.pretrained or 'new'}"
    if os.path.isfile(recipe.pretrained):
        return f"{name} {sha256_file(recipe.pretrained)}"
    if schema == "local-dir" and not recipe.pretrained and has_weights(identifier):
        return f"{name} {model_hash(identifier)}"
    return name


def build_from_stage(
    directory: Path, precision: str, device: torch.device, scratch_seed: int | None = None
) -> BuiltModel:
    """A model of a stage directory's architecture with its weights, or with new ones drawn from `scratch_seed`."""
    config = read_stage_config(directory)
    with _user_errors(str(directory)), seeded(scratch_seed or 0, device):
        model = create_model(
            f"local-dir:{directory}",
            precision=precision,
            device=device,
            output_dict=True,
            load_weights=scratch_seed is None,
        )
        tokenizer = get_tokenizer(f"local-dir:{directory}")
    return BuiltModel(model, config["model_cfg"], config["preprocess_cfg"], tokenizer)


def scratch_seed(seed: int, stage: int) -> int:
    """Seed of the initial weights of a stage that starts from scratch; another one for every stage."""
    return int(words(1, seed, stage, 0)[0]) >> 1


def lock(model: ContrastiveModel, recipe: StageRecipe) -> None:
    """Lock towers as open_clip's flags say; `UserError` for what a tower cannot lock."""
    if recipe.lock_image:
        try:
            model.lock_image_tower(
                unlocked_groups=recipe.lock_image_unlocked_groups, freeze_bn_stats=recipe.lock_image_freeze_bn_stats
            )
        except (AssertionError, RuntimeError, ImportError, KeyError, AttributeError) as error:
            raise UserError(
                f"--lock-image-unlocked-groups {recipe.lock_image_unlocked_groups}: this image tower "
                f"cannot be locked so ({error}); leave it out to lock the whole tower"
            ) from None
    if recipe.lock_text:
        try:
            model.lock_text_tower(
                unlocked_layers=recipe.lock_text_unlocked_layers, freeze_layer_norm=recipe.lock_text_freeze_layer_norm
            )
        except AssertionError:
            raise UserError(
                "--lock-text: this text tower locks its layer norms with its layers; add --lock-text-freeze-layer-norm"
            ) from None


def check_locks(model: ContrastiveModel, stages: Sequence[StageRecipe]) -> None:
    """Try the locks of all stages on copies: a lock that a tower cannot take shall not stop stage 3 after two days."""
    for stage in stages:
        if stage.lock_image or stage.lock_text:
            lock(copy.deepcopy(model), stage)


def wrap(model: nn.Module, recipe: OptimizationRecipe, ranks: Ranks) -> nn.Module:
    """The model as the step calls it: channels last, synchronised BatchNorm, DDP and torch.compile where asked for."""
    wrapped = model.to(memory_format=torch.channels_last) if recipe.channels_last else model
    if ranks.world_size > 1:
        if recipe.use_bn_sync:
            wrapped = synced(wrapped, ranks.device)
        on_host = ranks.device.type == "cpu"
        wrapped = DistributedDataParallel(
            wrapped, device_ids=None if on_host else [ranks.device], static_graph=recipe.ddp_static_graph
        )
        if on_host and ranks.world_size > 2:
            wrapped.register_comm_hook(None, _mean_in_rank_order)
    if recipe.torchcompile:
        if recipe.grad_checkpointing and ranks.world_size > 1:
            torch._dynamo.config.optimize_ddp = False  # as open_clip: checkpointing inside DDP's graph split fails
        wrapped = compiled(wrapped, recipe)
    return wrapped


def compiled(model: nn.Module, recipe: OptimizationRecipe) -> nn.Module:
    """`model` for torch.compile to compile at its first call; `UserError` for a mode or backend that there is not."""
    given = {"mode": recipe.torchcompile_mode, "backend": recipe.torchcompile_backend}
    try:
        return cast(nn.Module, torch.compile(model, **{name: value for name, value in given.items() if value}))  # type: ignore[call-overload]
    except (RuntimeError, ValueError) as error:
        flags = ", ".join(f"--torchcompile-{name} {value}" for name, value in given.items() if value)
        raise UserError(f"{flags}: torch.compile refuses it ({str(error).splitlines()[0][:200]})") from None


def _mean_in_rank_order(_: None, bucket: torch.distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Average a gradient bucket in the order of the ranks, so that the bits do not depend on how DDP cut its buckets.

    gloo's ring sums every chunk in another order, and DDP cuts its buckets anew after the first step: without this,
    a run resumed on the CPU would differ in the last bit from one that was never stopped. Two ranks commute.
    """
    world_size = torch.distributed.get_world_size()
    parts = [torch.empty_like(bucket.buffer()) for _ in range(world_size)]
    torch.distributed.all_gather(parts, bucket.buffer())
    done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    done.set_result(torch.stack(parts).sum(0).div_(world_size))
    return done


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's generators start from `seed` inside, and are what they were after."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _model_cfg(recipe: ModelRecipe) -> dict[str, Any]:
    """Open_clip's configuration of the architecture, with what the flags add and the weights do not show."""
    schema, identifier = parse_model_name(recipe.model)
    if schema == "local-dir":
        config = read_stage_config(identifier)["model_cfg"]
    elif schema == "hf-hub":
        with _user_errors(f"--model {recipe.model}"):
            path = download_pretrained_from_hf(identifier, filename="open_clip_config.json", cache_dir=recipe.cache_dir)
            config = json.loads(Path(path).read_text())["model_cfg"]
    else:
        config = get_model_config(identifier.replace("/", "-"))
        if config is None:
            raise UserError(f"--model {recipe.model} is not known to open_clip; see open_clip.list_models()")
    if "multimodal_cfg" in config:
        raise UserError(
            f"--model {recipe.model} also generates captions (CoCa); mcl_clip trains contrastive models only"
        )
    if recipe.force_patch_dropout is not None:
        config["vision_cfg"]["patch_dropout"] = recipe.force_patch_dropout
    return {**config, **_sigmoid_start(recipe)}


def _sigmoid_start(recipe: ModelRecipe) -> dict[str, float]:
    """Initial scale and bias of the sigmoid loss (Zhai et al., 2023, section 3.2)."""
    return {"init_logit_scale": math.log(10), "init_logit_bias": -10} if recipe.siglip else {}


@contextlib.contextmanager
def _user_errors(subject: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except (RuntimeError, ValueError, KeyError, OSError, TypeError, AssertionError, AttributeError) as error:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{subject}: open_clip cannot build this model ({reason[:300]})") from None
