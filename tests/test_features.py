import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mcl_clip.clustering.encoder import Encoder, frozen, load_encoder
from mcl_clip.clustering.features import embed
from mcl_clip.errors import UserError
from mcl_clip.loading.augment import eval_transform
from mcl_clip.loading.normalize import Normalize
from mcl_clip.models.stage_model import load_stage_model
from mcl_clip.shards.manifest import Manifest
from tests.clusters import stage_directory
from tests.data import make_index, tokenize
from tests.tars import read_samples
from tests.tiny_models import tiny_model

BROKEN, SILENT = (1, 3), (2, 5)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Manifest:
    return Manifest.load(make_index(tmp_path_factory.mktemp("data"), 3, 14, broken_image=[BROKEN], no_caption=[SILENT]))


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    return stage_directory(tmp_path_factory.mktemp("stage") / "model")


def encoder_of(model: torch.nn.Module, towers=("image",)) -> Encoder:
    transform = eval_transform(model.visual.preprocess_cfg)
    return Encoder(model, transform, Normalize(transform.mean, transform.std), tokenize, towers)


def everything(manifest: Manifest) -> list[tuple[int, np.ndarray]]:
    return [(shard, np.arange(manifest.shard_size[shard])) for shard in range(manifest.num_shards)]


def test_features_are_those_of_open_clip_sample_by_sample(manifest, stage):
    encoder = load_encoder(stage, ("image", "text"), "fp32", "cpu")
    model, preprocess, tokenizer = load_stage_model(stage)
    samples = read_samples(manifest.tars.paths)
    for part in embed(encoder, manifest, everything(manifest), batch_size=5):
        shard = manifest.open_shard(part.ordinal)
        for place, row in enumerate(part.rows):
            files = samples[(shard.name, shard.keys[row])]
            with torch.no_grad():
                image = preprocess(Image.open(io.BytesIO(files["jpg"]))).unsqueeze(0)
                expected = {
                    "image": model.encode_image(image, normalize=True)[0].numpy(),
                    "text": model.encode_text(tokenizer([files["txt"].decode()]), normalize=True)[0].numpy(),
                }
            for tower, feature in expected.items():
                np.testing.assert_allclose(part.features[tower][place], feature, atol=2e-3)
    assert part.features["image"].dtype == np.float32


def test_failed_samples_leave_no_row_whatever_the_tower(manifest):
    model = tiny_model("vit", 0, context_length=8)
    for towers in (("image",), ("text",)):
        parts = list(embed(encoder_of(model, towers), manifest, everything(manifest), batch_size=4))
        assert [len(part.rows) for part in parts] == [14, 13, 13]
        assert all(part.features[towers[0]].shape == (len(part.rows), 24) for part in parts)
        shard = manifest.open_shard(1)
        assert f"{BROKEN[0]:05d}{BROKEN[1]:04d}" not in [shard.keys[row] for row in parts[1].rows]


def test_bits_do_not_depend_on_workers_or_on_what_else_is_embedded(manifest):
    encoder = encoder_of(tiny_model("resnet", 0))
    encoder = replace(encoder, transform=eval_transform({**encoder.model.visual.preprocess_cfg, "size": 64}))
    alone = {part.ordinal: part for part in embed(encoder, manifest, everything(manifest)[1:2], batch_size=4)}
    for workers in (0, 2):
        for part in embed(encoder, manifest, everything(manifest), batch_size=4, workers=workers):
            if part.ordinal in alone:
                assert np.array_equal(part.features["image"], alone[part.ordinal].features["image"])
                assert np.array_equal(part.rows, alone[part.ordinal].rows)


def test_chosen_rows_only_and_shards_without_any(manifest):
    encoder = encoder_of(tiny_model("vit", 0))
    requests = [(0, np.array([2, 9])), (1, np.array([], np.int64)), (2, np.array([0]))]
    parts = list(embed(encoder, manifest, requests, batch_size=8))
    assert [part.ordinal for part in parts] == [0, 1, 2]
    assert [part.rows.tolist() for part in parts] == [[2, 9], [], [0]]
    assert [len(part.features["image"]) for part in parts] == [2, 0, 1]


def test_a_model_in_training_mode_gives_the_same_and_every_module_keeps_its_mode(manifest):
    model = tiny_model("resnet", 0)
    expected = list(embed(encoder_of(model), manifest, everything(manifest), batch_size=4))
    model.train()
    model.visual.layer1.eval()
    modes = [module.training for module in model.modules()]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    found = list(embed(encoder_of(model), manifest, everything(manifest), batch_size=4))
    assert all(np.array_equal(a.features["image"], b.features["image"]) for a, b in zip(expected, found, strict=True))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())


def test_a_batch_norm_that_looks_at_its_batch_is_refused(manifest):
    model = tiny_model("resnet", 0)
    model.visual.bn1 = torch.nn.BatchNorm2d(model.visual.bn1.num_features, track_running_stats=False)
    with pytest.raises(UserError, match=r"visual\.bn1 is a BatchNorm without running statistics"):
        list(embed(encoder_of(model), manifest, everything(manifest), batch_size=4))


class Restless(torch.nn.Module):
    """Counts its calls in a buffer, evaluation mode or not."""

    def __init__(self, visual: torch.nn.Module):
        super().__init__()
        self.visual = visual
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images):
        self.calls += 1
        return self.visual(images)


def test_a_buffer_that_moves_in_evaluation_mode_is_refused(manifest):
    model = tiny_model("vit", 0)
    encoder = encoder_of(model)
    model.visual = Restless(model.visual)
    with pytest.raises(UserError, match=r"buffer visual\.calls of the model moves"):
        list(embed(encoder, manifest, everything(manifest), batch_size=4))


def test_modes_are_restored_after_an_error():
    model = tiny_model("vit", 0).train()
    with pytest.raises(RuntimeError), frozen(model):
        assert not model.training
        raise RuntimeError
    assert model.training


def test_leaves_global_random_states_alone(manifest):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    list(embed(encoder_of(tiny_model("vit", 0)), manifest, everything(manifest), batch_size=4, workers=1))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_tar_that_shrank_is_a_user_error_from_workers_too(tmp_path):
    manifest = Manifest.load(make_index(tmp_path, 2, 6))
    path = tmp_path / "tars" / "00001.tar"
    path.write_bytes(path.read_bytes()[:2048])
    encoder = encoder_of(tiny_model("vit", 0))
    for workers in (0, 1):
        with pytest.raises(UserError, match=r"00001\.tar has 2048 bytes") as error:
            list(embed(encoder, manifest, everything(manifest), batch_size=4, workers=workers))
        assert "Traceback" not in str(error.value)


def test_autocast_gives_unit_fp32_features_near_the_exact_ones(manifest):
    exact = encoder_of(tiny_model("vit", 0))
    half = replace(exact, precision="bf16")
    for a, b in zip(
        embed(exact, manifest, everything(manifest), batch_size=4),
        embed(half, manifest, everything(manifest), batch_size=4),
        strict=True,
    ):
        assert b.features["image"].dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(b.features["image"], axis=1), 1, atol=1e-5)
        cosines = (a.features["image"] * b.features["image"]).sum(1)
        assert cosines.min() > 0.999 and not np.array_equal(a.features["image"], b.features["image"])
