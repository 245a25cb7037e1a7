"""Equal blocks run once, and the outputs equal the separate towers' bit for bit."""

import copy

import pytest
import torch
from torch import nn

import mcl_clip.models  # noqa: F401  registers the demo's tower
from mcl_clip.fusion.shared_blocks import SharedTowers, identical, share_tensors, step_key
from mcl_clip.fusion.tower_steps import Step, image_steps, text_steps
from tests.tiny_models import TINY, tiny_images, tiny_model


def changed(model, *names):
    """A copy of `model` in which the named modules' parameters moved."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name in names:
            for parameter in other.get_submodule(name).parameters():
                parameter.add_(0.05)
    return other


def towers(models, steps):
    share_tensors(models)
    return SharedTowers([steps(model) for model in models])


def tokens(count=3):
    return torch.randint(1, 1000, (count, 16), generator=torch.Generator().manual_seed(0))


LAST = {  # kind: (a late module, steps of one tower, steps that run for two towers that differ in it)
    "vit": ("visual.transformer.resblocks.3", 6, 8),
    "vit-custom-text": ("visual.transformer.resblocks.2", 6, 9),
    "siglip": ("visual.trunk.blocks.7", 11, 14),
    "resnet": ("visual.layer4", 6, 8),
    "timm-vit": ("visual.trunk.blocks.5", 9, 12),
    "timm-conv": ("visual.head", None, None),
}


@pytest.mark.parametrize("kind", TINY)
@torch.no_grad()
def test_image_towers_equal_the_separate_ones_and_share_what_comes_before(kind):
    name, single, both = LAST[kind]
    base = tiny_model(kind, seed=1)
    models = [base, changed(base, name), copy.deepcopy(base)]
    alone = [model.encode_image(tiny_images(base, 3)) for model in models]
    shared = towers(models, image_steps)
    assert all(map(torch.equal, shared(tiny_images(base, 3)), alone))
    assert not torch.equal(alone[0], alone[1]) and torch.equal(alone[0], alone[2])
    if single:
        assert (shared.separate_steps, shared.steps) == (3 * single, both)
    assert 1 < shared.steps < shared.separate_steps


@pytest.mark.parametrize("kind", ["vit", "vit-custom-text", "siglip"])
@torch.no_grad()
def test_text_towers_equal_the_separate_ones(kind):
    base = tiny_model(kind, seed=1)
    at = "text." if hasattr(base, "text") else ""
    models = [base, changed(base, f"{at}transformer.resblocks.2"), copy.deepcopy(base)]
    alone = [model.encode_text(tokens()) for model in models]
    shared = towers(models, text_steps)
    assert all(map(torch.equal, shared(tokens()), alone))
    assert (shared.separate_steps, shared.steps) == (15, 5 + 2) and not shared.all_equal
    assert towers([base, copy.deepcopy(base)], text_steps).all_equal


@torch.no_grad()
def test_a_tower_that_is_unlike_from_the_start_shares_nothing():
    base = tiny_model("vit", seed=1)
    other = changed(base, "visual.conv1")
    shared = towers([base, other], image_steps)
    assert shared.steps == shared.separate_steps == 12
    assert all(
        map(
            torch.equal,
            shared(tiny_images(base, 2)),
            [m.encode_image(tiny_images(base, 2)) for m in (base, other)],
        )
    )


@torch.no_grad()
def test_configuration_counts_not_only_tensors():
    """QuickGELU, the number of heads and an epsilon are no tensors, yet change what a block computes."""
    base = tiny_model("vit", seed=1)
    heads = copy.deepcopy(base)
    heads.visual.transformer.resblocks[0].attn.num_heads = 4
    heads.visual.transformer.resblocks[0].attn.head_dim = 8
    epsilon = copy.deepcopy(base)
    epsilon.visual.transformer.resblocks[0].ln_1.eps = 1e-3
    gelu = copy.deepcopy(base)
    gelu.load_state_dict(base.state_dict())
    quick = tiny_model("vit", seed=1, quick_gelu=True)
    for other in (heads, epsilon, quick):
        alone = [model.encode_image(tiny_images(base, 2)) for model in (base, other)]
        shared = towers([base, other], image_steps)
        assert shared.steps == 11, "only what comes before the first block is common"
        assert all(map(torch.equal, shared(tiny_images(base, 2)), alone)) and not torch.equal(*alone)


@torch.no_grad()
def test_a_hook_keeps_a_block_apart():
    base = tiny_model("vit", seed=1)
    hooked = copy.deepcopy(base)
    hooked.visual.transformer.resblocks[1].register_forward_hook(lambda module, inputs, output: output * 2)
    shared = towers([base, hooked], image_steps)
    assert shared.steps == 12 - 2
    image = tiny_images(base, 1)
    assert all(map(torch.equal, shared(image), [base.encode_image(image), hooked.encode_image(image)]))


@torch.no_grad()
def test_towers_that_no_one_knows_stay_whole_and_run_once_when_equal():
    class Odd(nn.Module):
        """Neither a sequence nor a class that open_clip has."""

        def __init__(self, scale):
            super().__init__()
            self.image_size, self.output_dim, self.scale = 32, 24, scale
            self.a, self.b = nn.Linear(3, 24), nn.Linear(3, 24)

        def forward(self, images):
            means = images.mean((2, 3))
            return self.a(means) * self.b(means) * self.scale

    models = [tiny_model("vit", seed=1) for _ in range(3)]
    models[0].visual = Odd(1.0)
    models[1].visual = copy.deepcopy(models[0].visual)
    models[2].visual = Odd(2.0)
    models[2].visual.load_state_dict(models[0].visual.state_dict())
    shared = towers(models, image_steps)
    assert (shared.steps, shared.separate_steps) == (2, 3)
    images = torch.randn(2, 3, 32, 32)
    assert all(map(torch.equal, shared(images), [model.visual(images) for model in models]))


def test_steps_that_do_not_give_the_towers_own_result_are_not_used(monkeypatch):
    model = tiny_model("vit", seed=1)
    assert len(image_steps(model)) == 6
    monkeypatch.setattr(type(model.visual), "_embeds", lambda self, images: images)
    monkeypatch.setattr(type(model.visual), "forward", lambda self, images: self.conv1(images).mean((2, 3)))
    assert len(image_steps(model)) == 1


@pytest.mark.parametrize("kind", ["vit", "vit-custom-text", "resnet", "timm-vit"])
def test_a_tower_whose_insides_are_unknown_stays_one_step(kind):
    model = tiny_model(kind, seed=1)
    tower = model.text if hasattr(model, "text") else model
    images, texts = tiny_images(model, 2), torch.randint(1, 99, (2, tower.context_length))
    expected = model.encode_image(images), model.encode_text(texts)
    assert len(image_steps(model)) > 1 and len(text_steps(model)) > 1
    for part in (model.visual, tower.transformer):
        part.__class__ = type("OfAnotherVersion", (type(part),), {})
    steps = image_steps(model), text_steps(model)
    assert [len(each) for each in steps] == [1, 1]
    assert torch.equal(steps[0][0].run(images), expected[0]) and torch.equal(steps[1][0].run(texts), expected[1])


def test_a_tower_that_lacks_an_attribute_stays_one_step():
    model = tiny_model("vit", seed=1)
    del model.visual.output_tokens
    model.visual.forward = lambda images: model.visual.conv1(images).mean((2, 3))
    assert len(image_steps(model)) == 1


def test_a_branch_that_writes_in_place_does_not_disturb_the_others():
    class AddInPlace(nn.Module):
        def __init__(self, amount):
            super().__init__()
            self.amount = amount

        def forward(self, x):
            return x.add_(self.amount)

    double = nn.Identity()
    sequences = [
        [Step(double, (double,)), *[Step(add, (add,)) for add in map(AddInPlace, amounts)]]
        for amounts in [(1, 10), (2,), (1, 20), (), (1,)]
    ]
    shared = SharedTowers(sequences)
    assert [output.item() for output in shared(torch.zeros(1))] == [11, 2, 21, 0, 1]
    assert shared.steps == 1 + 1 + 2 + 1


def test_sharing_is_by_bits():
    zero = torch.tensor([0.0])
    assert identical(zero, torch.tensor([0.0])) and not identical(zero, torch.tensor([-0.0]))
    assert not identical(zero, torch.tensor([0.0], dtype=torch.float64)) and not identical(zero, zero.reshape(1, 1))
    assert identical(torch.tensor([float("nan")]), torch.tensor([float("nan")]))
    assert identical(torch.tensor(3), torch.tensor(3)) and identical(torch.empty(0, 2), torch.empty(0, 2))


def test_equal_tensors_are_one_in_memory():
    base = tiny_model("vit", seed=1)
    other = changed(base, "visual.transformer.resblocks.3")
    share_tensors([base, other])
    own, theirs = dict(base.named_parameters()), dict(other.named_parameters())
    apart = {name for name in own if own[name] is not theirs[name]}
    assert apart and all(name.startswith("visual.transformer.resblocks.3.") for name in apart)


@pytest.mark.parametrize("kind", ["resnet", "timm-conv"])
@torch.no_grad()
def test_how_images_were_made_and_how_many_batches_were_seen_do_not_matter(kind):
    """Json makes lists of tuples, and BatchNorm with frozen statistics comes back with a count of 0."""
    base = tiny_model(kind, seed=1)
    base.train()
    base.encode_image(tiny_images(base, 4))
    other = copy.deepcopy(base.eval())
    for module in other.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked.zero_()
    other.visual.preprocess_cfg = {
        name: list(v) if isinstance(v, tuple) else v for name, v in vars(other.visual)["preprocess_cfg"].items()
    }
    other.visual.image_mean, other.output_dict = list(other.visual.image_mean), True
    shared = towers([base, other], image_steps)
    assert shared.all_equal
    assert all(
        map(torch.equal, shared(tiny_images(base, 2)), [m.encode_image(tiny_images(base, 2)) for m in (base, other)])
    )


@torch.no_grad()
def test_a_stage_of_blocks_is_taken_apart_where_its_children_are_a_sequence():
    base = tiny_model("timm-conv", seed=1)
    stage = base.visual.trunk.stages[2]
    assert len(stage.blocks) > 1
    other = changed(base, f"visual.trunk.stages.2.blocks.{len(stage.blocks) - 1}")
    alone = [model.encode_image(tiny_images(base, 2)) for model in (base, other)]
    shared = towers([base, other], image_steps)
    own = 1 + len(base.visual.trunk.stages[3].blocks) + len(list(base.visual.trunk.stages[3].downsample)) + 1
    assert shared.steps == shared.separate_steps // 2 + own
    assert all(map(torch.equal, shared(tiny_images(base, 2)), alone)) and not torch.equal(*alone)


def test_what_is_neither_parameter_nor_number_counts_too():
    """Functions of one name, tensors that no one registered, and modules that a list hides."""

    class Hidden(nn.Module):
        def __init__(self, **attributes):
            super().__init__()
            vars(self).update(attributes)

    def function(scale):
        def f(x, scale=scale):
            return x * scale

        return f

    same = function(1)
    for left, right in [
        ({"f": function(1)}, {"f": function(2)}),
        ({"t": torch.ones(2)}, {"t": torch.zeros(2)}),
        ({"m": [nn.Linear(1, 1)]}, {"m": [nn.Linear(1, 1)]}),
    ]:
        modules = [Hidden(**left), Hidden(**right)]
        keys = [step_key(Step(module, (module,))) for module in modules]
        assert keys[0] != keys[1]
    for both in ({"f": same}, {"t": torch.ones(2)}, {"f": torch.nn.functional.gelu}, {"f": nn.GELU}):
        modules = [Hidden(**both), Hidden(**copy.deepcopy(both))]
        keys = [step_key(Step(module, (module,))) for module in modules]
        assert keys[0] == keys[1]
