"""Groups of parameters: what decays, and how fast each layer learns, by value."""

import dataclasses

import pytest
import torch

from mcl_clip.errors import UserError
from tests.tiny_models import hugging_face_text, tiny_model
from tests.tiny_runs import command
from training import flags
from training.optimizer import make_optimizer, make_schedule
from training.parameters import parameter_groups
from training.resolve import resolve


def recipe_of(tmp_path, *arguments):
    """The recipe of a command line."""
    return resolve(flags.parse(command(tmp_path, *arguments)), {}, name="run", world_size=1)


def rates(model, groups):
    """Name -> (scale, decay)."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[p]: (g.get("lr_scale", 1.0), g["weight_decay"]) for g in groups for p in g["params"]}


def optimization(**changes):
    """The default recipe, changed."""
    arguments = ["--train-data", "data", "--model", "ViT-B-32", "--name", "run", "--wd", "0.1"]
    base = resolve(flags.parse(arguments), {}, name="run", world_size=1).optimization
    return dataclasses.replace(base, **changes)


def test_without_flags_there_are_the_two_groups_of_open_clip_3():
    groups = parameter_groups(model := tiny_model("vit", 0), optimization(), 0.1)
    assert [group["weight_decay"] for group in groups] == [0.0, 0.1] and "lr" not in groups[0]
    found = rates(model, groups)
    assert found.keys() == dict(model.named_parameters()).keys()
    assert all(
        (decay == 0) == (model.get_parameter(name).ndim < 2 or "ln" in name) for name, (_, decay) in found.items()
    )


@pytest.mark.parametrize("opt", ["adamw", "timm/adamw"])
def test_wd_exclude_spares_what_matches_whole_names(opt):
    model = tiny_model("vit", 0)
    recipe = optimization(opt=opt, wd_exclude=["*positional_embedding", "visual.proj", "proj"])
    found = rates(model, make_optimizer(model, recipe, 0.1).param_groups)
    for name in ("positional_embedding", "visual.positional_embedding", "visual.proj"):
        assert found[name][1] == 0.0
    assert found["text_projection"][1] == found["visual.conv1.weight"][1] == 0.1


@pytest.mark.parametrize("opt", ["adamw", "timm/adamw"])
def test_layers_learn_slower_the_farther_they_are_from_the_head(opt):
    model = tiny_model("vit", 0)  # 4 image blocks, 3 text blocks
    recipe = optimization(opt=opt, image_layer_decay=0.5, text_layer_decay=0.1)
    optimizer = make_optimizer(model, recipe, 0.1)
    found = rates(model, optimizer.param_groups)
    assert found["visual.proj"] == (1.0, 0.1) and found["visual.ln_post.weight"] == (0.5, 0.0)
    assert found["visual.transformer.resblocks.3.attn.in_proj_weight"] == (0.5, 0.1)
    assert found["visual.transformer.resblocks.0.attn.in_proj_weight"] == (0.5**4, 0.1)
    for name in ("visual.conv1.weight", "visual.class_embedding", "visual.positional_embedding", "visual.ln_pre.bias"):
        assert found[name][0] == 0.5**5
    assert found["text_projection"][0] == 1.0 and found["ln_final.bias"][0] == 0.1
    assert found["transformer.resblocks.2.mlp.c_fc.weight"][0] == 0.1
    assert found["token_embedding.weight"][0] == pytest.approx(1e-4) == found["positional_embedding"][0]
    assert found["logit_scale"] == (1.0, 0.0)
    assert found.keys() == dict(model.named_parameters()).keys()
    assert all(group["lr"] == pytest.approx(0.1 * group["lr_scale"]) for group in optimizer.param_groups)


@pytest.mark.parametrize(
    ("kind", "scales"),
    [
        ("resnet", {"conv1.weight": 0.5**5, "layer1.0.conv1.weight": 0.5**4, "attnpool.positional_embedding": 1.0}),
        ("timm-vit", {"trunk.patch_embed.proj.weight": None, "head.proj.weight": 1.0}),
        ("siglip", {"trunk.attn_pool.latent": 1.0}),
    ],
)
def test_every_image_tower_is_taken_apart(kind, scales):
    model = tiny_model(kind, 0)
    found = rates(model, parameter_groups(model, optimization(image_layer_decay=0.5), 0.1))
    visual = {name.removeprefix("visual."): scale for name, (scale, _) in found.items() if name.startswith("visual.")}
    for name, scale in scales.items():
        assert visual[name] == (min(visual.values()) if scale is None else scale)
    assert len(set(visual.values())) > 2
    assert {scale for name, (scale, _) in found.items() if not name.startswith("visual.")} == {1.0}


def test_a_hugging_face_text_tower_is_taken_apart(tmp_path):
    text = hugging_face_text(tmp_path / "bert")
    model = tiny_model("vit", 0, text_cfg=text, custom_text=True)
    found = rates(model, parameter_groups(model, optimization(text_layer_decay=0.5), 0.1))
    assert found["text.proj.0.weight"][0] == 1.0
    assert found["text.transformer.encoder.layer.0.output.dense.weight"][0] == 0.5
    assert found["text.transformer.embeddings.word_embeddings.weight"][0] == 0.25


def test_locked_parameters_are_in_no_group():
    model = tiny_model("vit", 0)
    model.lock_image_tower()
    found = rates(model, parameter_groups(model, optimization(image_layer_decay=0.5), 0.1))
    assert not any(name.startswith("visual.") for name in found) and "text_projection" in found


def test_a_tower_whose_insides_are_unknown_is_refused():
    model = tiny_model("vit", 0)
    model.visual = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match="--image-layer-decay: the layers of this image tower"):
        parameter_groups(model, optimization(image_layer_decay=0.5), 0.1)


def test_the_schedule_keeps_the_scales(tmp_path):
    recipe = recipe_of(tmp_path, "--image-layer-decay", "0.5", "--warmup", "2", "--lr-scheduler", "const")
    model = tiny_model("vit", 0)
    optimizer = make_optimizer(model, recipe.optimization, recipe.stages[0].lr)
    schedule = make_schedule(optimizer, recipe.optimization, recipe.stages[0], 10)
    lr = recipe.stages[0].lr
    for step, expected in enumerate((lr / 2, lr, lr)):
        assert schedule(step) == pytest.approx(expected)
        assert [g["lr"] for g in optimizer.param_groups] == pytest.approx(
            [expected * g["lr_scale"] for g in optimizer.param_groups]
        )


@pytest.mark.parametrize("opt", ["adamw", "timm/adamw"])
def test_opt_kwargs_reach_the_optimizer_and_win(opt):
    model = tiny_model("vit", 0)
    recipe = optimization(opt=opt, opt_kwargs={"amsgrad": True, "eps": 0.25, "foreach": True})
    optimizer = make_optimizer(model, recipe, 0.1)
    assert all(group["amsgrad"] and group["eps"] == 0.25 for group in optimizer.param_groups)


@pytest.mark.parametrize("opt", ["adamw", "timm/lion"])
def test_an_argument_that_the_optimizer_does_not_take_is_named(opt):
    with pytest.raises(UserError, match="--opt-kwargs no_such=1"):
        make_optimizer(tiny_model("vit", 0), optimization(opt=opt, opt_kwargs={"no_such": 1}), 0.1)
