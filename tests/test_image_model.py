"""Models of images alone: heads as lightly's, stems for small images, a directory that timm loads."""

import pytest
import timm
import torch
from lightly.models.modules.heads import MoCoProjectionHead, SimCLRProjectionHead

from mcl_clip.errors import UserError
from mcl_clip.models.image_model import ImageModel
from mcl_clip.models.projection import Projection
from mcl_clip.models.stage_model import load_stage_model, model_hash, save_stage_model
from mcl_clip.models.view_models import MomentumPair, TwoViews
from tests.image_runs import READS_FOLDERS

PREPROCESS = {
    "size": 32, "mode": "RGB", "mean": [0.5] * 3, "std": [0.2] * 3,
    "interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0,
}  # fmt: skip


def configuration(name="test_resnet", kind="simclr"):
    return {"timm_model": name, "timm_args": {}, "projection": {"kind": kind, "dim": 16}, "output": "features"}


def image_model(seed=0, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ImageModel(configuration(**options), PREPROCESS)


@pytest.mark.parametrize(("kind", "head"), [("simclr", SimCLRProjectionHead), ("moco", MoCoProjectionHead)])
def test_heads_are_lightlys(kind, head):
    theirs, ours = head(24, 24, 16), Projection(kind, 24, 16)
    ours.load_state_dict(theirs.state_dict())
    features = torch.randn(5, 24)
    assert torch.equal(ours(features), theirs(features))


@READS_FOLDERS
@pytest.mark.parametrize("name", ["mcl_resnet18_small", "test_resnet", "mcl_tiny_conv"])
def test_a_saved_stage_is_a_backbone_of_timms(tmp_path, name):
    model = image_model(name=name).eval()
    save_stage_model(
        model, tmp_path / "model", model_cfg=configuration(name), preprocess_cfg=PREPROCESS, extra={"stage": 1}
    )
    loaded, preprocess, tokenizer = load_stage_model(tmp_path / "model")
    backbone = timm.create_model(f"local-dir:{tmp_path}/model", pretrained=True).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images)) and torch.equal(backbone(images), model(images))
        assert torch.equal(loaded.project(images), model.project(images))
    assert tokenizer is None and preprocess is not None and backbone.pretrained_cfg["mean"] == [0.5] * 3
    before = model_hash(tmp_path / "model")
    model.projection.layers[0].weight.data.add_(1)
    save_stage_model(model, tmp_path / "other", model_cfg=configuration(name), preprocess_cfg=PREPROCESS)
    assert model_hash(tmp_path / "other") != before  # the head is of the stage
    (tmp_path / "model/head/model.safetensors").unlink()
    with pytest.raises(UserError, match="does not load"):
        load_stage_model(tmp_path / "model")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"timm_model": "hf-hub:some/where"}, "timm has no model"),
        ({"timm_args": {"checkpoint_path": "x.pth"}}, "alone"),
    ],
)
def test_a_configuration_reaches_no_other_source(change, why):
    with pytest.raises(UserError, match=why):
        ImageModel(configuration() | change, PREPROCESS)


def test_small_stems_keep_the_size_of_the_image():
    images = torch.randn(1, 3, 32, 32)
    small, usual = (timm.create_model(name, num_classes=0).eval() for name in ("mcl_resnet18_small", "resnet18"))
    assert small.forward_features(images).shape[-2:] == (4, 4) and usual.forward_features(images).shape[-2:] == (1, 1)
    assert small(images).shape == (1, 512)
    rest = {name for name in usual.state_dict() if not name.startswith("conv1")}
    assert {name: usual.state_dict()[name].shape for name in rest} == {
        name: tensor.shape for name, tensor in small.state_dict().items() if not name.startswith("conv1")
    }


def test_views_of_a_sample_are_projected_by_one_model_in_one_pass():
    model = image_model()
    views = torch.randn(4, 2, 3, 32, 32)
    output = TwoViews(model)(views)
    assert model.visual.trunk.bn1.num_batches_tracked == 1
    expected = torch.nn.functional.normalize(image_model().project(views.flatten(0, 1)), dim=-1)
    torch.testing.assert_close(output["first_views"], expected[::2])
    torch.testing.assert_close(output["second_views"], expected[1::2])


def test_keys_come_from_a_slower_copy():
    model = image_model(kind="moco")
    pair = MomentumPair(model).eval()
    views = torch.randn(4, 2, 3, 32, 32)
    before = pair(views)
    assert before["queries"].requires_grad and not before["keys"].requires_grad
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert torch.equal(pair(views)["keys"], before["keys"])
    start = [parameter.clone() for parameter in pair.slow.parameters()]
    pair.follow(0.9)
    for slow, old, fast in zip(pair.slow.parameters(), start, model.parameters(), strict=True):
        torch.testing.assert_close(slow, 0.9 * old + 0.1 * fast)
    assert not any(parameter.requires_grad for parameter in pair.slow.parameters())
