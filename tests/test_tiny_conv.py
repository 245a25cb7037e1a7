"""The demo's towers are ordinary models for open_clip and timm."""

import subprocess
import sys

import open_clip
import pytest
import timm
import torch

import mcl_clip.models  # noqa: F401  registers the towers
from mcl_clip.models.stage_model import load_stage_model, save_stage_model
from mcl_clip.openclip.configs import get_model_config, list_models
from mcl_clip.openclip.models import create_model


def images(count=3):
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["mcl-tiny-conv", "mcl-tiny-vit"])
def test_the_models_are_in_open_clips_list_and_encode(name):
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    assert name in list_models()
    assert model.encode_image(images()).shape == (3, 64)
    texts = open_clip.get_tokenizer(name)(["a red square", "two blue circles"])
    assert model.encode_text(texts).shape == (2, 64)
    assert preprocess is not None


def test_the_conv_tower_survives_the_disk(tmp_path):
    model = create_model("mcl-tiny-conv").eval()
    save_stage_model(
        model,
        tmp_path / "model",
        model_cfg=get_model_config("mcl-tiny-conv"),
        preprocess_cfg=model.visual.preprocess_cfg,
    )
    again, _, _ = load_stage_model(tmp_path / "model")
    assert torch.equal(model.encode_image(images()), again.encode_image(images()))


def test_the_conv_tower_keeps_where_things_are():
    """A flattened map sees position: shifting a picture by a quarter changes the features."""
    tower = timm.create_model("mcl_tiny_conv").eval()
    picture = torch.zeros(1, 3, 32, 32)
    picture[:, :, 4:12, 4:12] = 1
    assert tower.forward_features(picture).shape == (1, 128, 4, 4)
    assert not torch.allclose(tower(picture), tower(picture.roll(8, 3)), atol=1e-2)


def test_a_classifier_can_be_put_on_and_taken_off():
    tower = timm.create_model("mcl_tiny_conv", num_classes=5)
    assert tower(images()).shape == (3, 5)
    tower.reset_classifier(0)
    assert tower(images()).shape == (3, tower.num_features)


def test_training_and_evaluation_agree():
    tower = timm.create_model("mcl_tiny_conv")
    assert torch.equal(tower.train()(images()), tower.eval()(images()))


def test_image_tower_locks_by_groups():
    model = create_model("mcl-tiny-conv")
    model.lock_image_tower(unlocked_groups=2)
    trained = {name for name, p in model.visual.named_parameters() if p.requires_grad}
    assert any(name.startswith("head") for name in trained)
    assert any(name.startswith("trunk.blocks.3") for name in trained)
    assert not any(name.startswith(("trunk.blocks.0", "trunk.blocks.1")) for name in trained)


def test_importing_the_package_is_enough() -> None:
    code = "import open_clip, mcl_clip; open_clip.create_model_and_transforms('mcl-tiny-conv')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
