"""Stages from checkpoints, names and the hub's cache."""

import json
from pathlib import Path

import huggingface_hub
import pytest
import torch

import mcl_clip
from mcl_clip.errors import UserError
from mcl_clip.fusion.files import save_fused
from mcl_clip.fusion.take_over import open_stage
from mcl_clip.models.stage_model import save_stage_model
from mcl_clip.openclip.configs import add_model_config
from tests.test_fused_model import fused_of, vit
from tests.tiny_models import TINY, tiny_images, tiny_model
from training.fuse import main


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """Tiny architectures under open_clip names."""
    folder = tmp_path_factory.mktemp("model_configs")
    named = {"tiny": TINY["vit"], "tiny-quickgelu": TINY["vit"] | {"quick_gelu": True}, "tiny-sigmoid": TINY["siglip"]}
    for name, config in named.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    add_model_config(folder)


def checkpoint(model, path, form):
    state = model.state_dict()
    if form in ("module", "reference"):
        state = {f"module.{name}": tensor for name, tensor in state.items()}
    if form == "training":
        optimizer = torch.optim.AdamW(model.parameters())
        state = {
            "epoch": 3,
            "name": "x",
            "state_dict": state,
            "optimizer": optimizer.state_dict(),
            "scaler": None,
        }
    if form == "reference":
        state = {"epoch": 20, "state_dict": state}
    if form == "safetensors":
        from safetensors.torch import save_file

        path = path.with_suffix(".safetensors")
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("form", ["bare", "module", "training", "reference", "safetensors"])
@torch.no_grad()
def test_checkpoints_of_open_clip_and_the_reference(tmp_path, names, form):
    model = vit(1, quick_gelu=True)
    path = checkpoint(model, tmp_path / "epoch_3.pt", form)
    images = tiny_images(model, 2)
    named = open_stage(path, architecture="tiny-quickgelu")
    forced = open_stage(path, architecture="tiny", quick_gelu=True)
    for stage in (named, forced):
        assert torch.equal(stage.model.encode_image(images), model.encode_image(images))
        assert stage.config["model_cfg"]["quick_gelu"] is True and not stage.model.training
    plain, _, _ = mcl_clip.load("tiny", pretrained=str(path))
    assert not torch.equal(plain.encode_image(images), model.encode_image(images))


@torch.no_grad()
def test_a_sigmoid_checkpoint_keeps_its_bias(tmp_path, names):
    model = tiny_model("siglip", seed=1)
    model.logit_bias.data.fill_(-7.0)
    stage = open_stage(checkpoint(model, tmp_path / "a.pt", "bare"), architecture="tiny-sigmoid")
    assert stage.model.logit_bias.item() == -7.0 and "init_logit_bias" in stage.config["model_cfg"]


@torch.no_grad()
def test_the_command_fuses_checkpoints_and_directories(tmp_path, names):
    models = [vit(1, quick_gelu=True), vit(2, quick_gelu=True)]
    first = checkpoint(models[0], tmp_path / "a.pt", "reference")
    save_stage_model(
        models[1],
        tmp_path / "run" / "stage_1" / "model",
        model_cfg=TINY["vit"],
        preprocess_cfg=models[1].visual.preprocess_cfg,
    )
    sources = [str(first), str(tmp_path / "run" / "stage_1")]
    assert main([*sources, "--model", "tiny-quickgelu", "--output", str(tmp_path / "fused")]) == 0
    fused, _, _ = mcl_clip.load(tmp_path / "fused")
    images = tiny_images(models[0], 2)
    for ours, model in zip(fused.stage_embeddings(image=images), models, strict=True):
        assert torch.equal(ours, model.encode_image(images))


@torch.no_grad()
def test_names_with_one_checkpoint_or_one_each(tmp_path, names):
    paths = [checkpoint(vit(seed), tmp_path / f"{seed}.pt", "bare") for seed in (1, 2)]
    model, _, _ = mcl_clip.load("tiny,tiny", pretrained=",".join(map(str, paths)))
    images = tiny_images(vit(1), 2)
    assert torch.equal(model.encode_image(images), fused_of(vit(1), vit(2)).encode_image(images))
    same, _, _ = mcl_clip.load("tiny,tiny-quickgelu", pretrained=str(paths[0]), fusion="mean-cosine")
    assert same.fusion == "mean-cosine" and same.num_stages == 2
    with pytest.raises(UserError, match="one a name"):
        mcl_clip.load("tiny,tiny,tiny", pretrained=",".join(map(str, paths)))


class Evil:
    """Pickles to a call that would leave a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_a_pickle_that_runs_code_is_refused_and_did_not_run(tmp_path, names):
    torch.save({"state_dict": vit(1).state_dict(), "x": Evil(tmp_path / "trace")}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="would run code"):
        open_stage(tmp_path / "evil.pt", architecture="tiny")
    assert not (tmp_path / "trace").exists()


def test_what_does_not_fit_is_refused_with_the_reason(tmp_path, names):
    path = checkpoint(tiny_model("resnet", seed=1), tmp_path / "a.pt", "bare")
    torch.save({}, tmp_path / "empty.pt")
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
    (tmp_path / "run" / "fused").mkdir(parents=True)
    (tmp_path / "short.pt").write_bytes(path.read_bytes()[:2000])
    for source, options, reason in [
        (path, {}, "--model"),
        (path, {"architecture": "tiny"}, "cannot be loaded"),
        (path, {"architecture": "nothing"}, "not found"),
        (tmp_path / "empty.pt", {"architecture": "tiny"}, "holds no weights"),
        (tmp_path / "short.pt", {"architecture": "tiny"}, "damaged or cut short"),
        ("tiny", {}, "--pretrained"),
        ("tiny", {"pretrained": "openai"}, "neither a file nor a tag"),
        ("no-such-model", {"pretrained": "openai"}, "nor an open_clip model name"),
        (tmp_path, {}, "not a stage directory"),
        (tmp_path / "run", {}, "it is a run: name .*fused"),
        (tmp_path / "script.pt", {"architecture": "tiny"}, "TorchScript"),
    ]:
        with pytest.raises(UserError, match=reason):
            open_stage(source, **options)


def hub_cache(cache, name, fill):
    """A repository as huggingface_hub keeps it once it was fetched."""
    folder = cache / f"models--{name.replace('/', '--')}"
    commit = "0" * 40
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    fill(folder / "snapshots" / commit)


@torch.no_grad()
def test_fused_models_and_stages_from_the_hubs_cache(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    fused, single = fused_of(vit(1), vit(2)), vit(3)
    hub_cache(cache, "owner/fused", lambda folder: save_fused(fused, folder))
    stage = {"model_cfg": TINY["vit"], "preprocess_cfg": single.visual.preprocess_cfg}
    hub_cache(cache, "owner/stage", lambda folder: save_stage_model(single, folder, **stage))
    images = tiny_images(single, 2)
    model, _, _ = mcl_clip.load("hf-hub:owner/fused")
    assert torch.equal(model.encode_image(images), fused.encode_image(images))
    model, _, _ = mcl_clip.load("hf-hub:owner/stage")
    assert torch.equal(model.encode_image(images), single.encode_image(images))
    model, _, _ = mcl_clip.load("hf-hub:owner/fused,hf-hub:owner/stage")
    assert model.num_stages == 3
    with pytest.raises(UserError, match="not in the hub's cache and cannot be fetched"):
        mcl_clip.load("hf-hub:owner/other")
