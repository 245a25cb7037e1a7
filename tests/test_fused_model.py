"""The fused model behind open_clip's interface, against arithmetic written out."""

import copy
import json
import math
import sys

import pytest
import torch
import torch.nn.functional as F
from open_clip import get_tokenizer
from PIL import Image

import mcl_clip
from eval import clip_benchmark
from mcl_clip.errors import UserError
from mcl_clip.fusion.combine import fuse_embeddings
from mcl_clip.fusion.files import save_fused
from mcl_clip.fusion.fused_model import FusedCLIP
from mcl_clip.fusion.stages import Stage
from mcl_clip.models.stage_model import complete_model_cfg
from mcl_clip.openclip.zero_shot import build_zero_shot_classifier
from tests.tiny_models import TINY, tiny_images, tiny_model, word_tokenizer


def stage(model, kind="vit", tokenizer=None):
    config = {
        "model_cfg": complete_model_cfg(model, TINY[kind]),
        "preprocess_cfg": dict(model.visual.preprocess_cfg),
    }
    return Stage(model, config, tokenizer or get_tokenizer("ViT-B-32", context_length=model.context_length), "tiny")


def vit(seed, **overrides):
    return tiny_model("vit", seed=seed, **overrides)


def fused_of(*models, **options):
    return FusedCLIP([stage(copy.deepcopy(model)) for model in models], **options)


def tokens(count=4):
    return torch.randint(1, 1000, (count, 16), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_concat_is_raw_embeddings_side_by_side_then_normalised():
    models = [vit(1), vit(2), vit(3)]
    fused, images = fused_of(*models), tiny_images(vit(1), 4)
    raw = torch.cat([model.encode_image(images) for model in models], dim=1)
    assert torch.equal(fused.encode_image(images), raw)
    assert torch.allclose(fused.encode_image(images, normalize=True), raw / raw.norm(dim=1, keepdim=True), atol=1e-7)
    raw = torch.cat([model.encode_text(tokens()) for model in models], dim=1)
    assert torch.equal(fused.encode_text(tokens()), raw)
    assert torch.allclose(fused.encode_text(tokens(), normalize=True), raw / raw.norm(dim=1, keepdim=True), atol=1e-7)


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 5.0]])
@torch.no_grad()
def test_mean_cosine_is_the_weighted_mean_of_the_stages_cosines(weights):
    models = [vit(1), vit(2), vit(3)]
    fused, images = fused_of(*models, fusion="mean-cosine", weights=weights), tiny_images(vit(1), 4)
    expected, total = torch.zeros(4, 4), 0.0
    for model, weight in zip(models, weights or [1, 1, 1], strict=True):
        for i, u in enumerate(model.encode_image(images)):
            for j, v in enumerate(model.encode_text(tokens())):
                expected[i, j] += weight * F.cosine_similarity(u, v, dim=0)
        total += weight
    scores = fused.encode_image(images, normalize=True) @ fused.encode_text(tokens(), normalize=True).T
    assert torch.allclose(scores, expected / total, atol=1e-6)
    assert torch.allclose(fused.encode_image(images).norm(dim=1), torch.ones(4))


@torch.no_grad()
def test_one_stage_is_that_stage():
    model = vit(1)
    fused, images = fused_of(model), tiny_images(model, 2)
    assert torch.equal(fused.encode_image(images, normalize=True), model.encode_image(images, normalize=True))
    for ours, theirs in zip(fused(images, tokens(2)), model(images, tokens(2)), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", ["vit", "siglip"])
@torch.no_grad()
def test_forward_has_open_clips_outputs(kind):
    models = [tiny_model(kind, seed=seed) for seed in (1, 2)]
    fused = FusedCLIP([stage(model, kind) for model in models])
    images = tiny_images(models[0], 2)
    reference = models[0](images, tokens(2))
    assert len(fused(images, tokens(2))) == len(reference)
    assert fused(image=images)[1] is None and fused(text=tokens(2))[0] is None
    fused.output_dict = models[0].output_dict = True
    outputs, reference = fused(images, tokens(2)), models[0](images, tokens(2))
    assert outputs.keys() == reference.keys()
    for name in ("logit_scale", "logit_bias")[: 1 + (kind == "siglip")]:
        assert outputs[name].shape == reference[name].shape
    by_image, by_text = fused.get_logits(images, tokens(2))
    scores = outputs["image_features"] @ outputs["text_features"].T * outputs["logit_scale"]
    assert torch.allclose(by_image, scores + outputs.get("logit_bias", 0), atol=1e-5)
    assert torch.equal(by_text, by_image.T)


def test_logit_scale_is_the_geometric_mean_weighted_as_the_fusion_is():
    models = [vit(1), vit(2)]
    for model, scale in zip(models, (10.0, 1000.0), strict=True):
        model.logit_scale.data.fill_(math.log(scale))
    assert fused_of(*models).logit_scale.exp().item() == pytest.approx(100.0, rel=1e-5)
    weighted = fused_of(*models, fusion="mean-cosine", weights=[3, 1])
    assert weighted.logit_scale.exp().item() == pytest.approx(10**1.5, rel=1e-5)


def test_visual_has_what_open_clips_code_reads():
    model = vit(1)
    fused = fused_of(model, vit(2))
    for name in ("image_size", "image_mean", "image_std", "preprocess_cfg"):
        assert getattr(fused.visual, name) == getattr(model.visual, name)
    assert fused.visual.output_dim == 48 and fused.context_length == 16 and fused.vocab_size == 49408
    assert fused.preprocess(Image.new("RGB", (50, 40))).shape == (3, 32, 32)
    with torch.no_grad():
        assert torch.equal(fused.visual(tiny_images(model, 2)), fused.encode_image(tiny_images(model, 2)))


@torch.no_grad()
def test_stages_subset_and_order_in_one_pass():
    models, images = [vit(1), vit(2), vit(3)], tiny_images(vit(1), 3)
    fused = fused_of(*models, fusion="mean-cosine", weights=[1, 2, 3])
    one_pass = fused.stage_embeddings(image=images)
    assert all(torch.equal(a, b.encode_image(images)) for a, b in zip(one_pass, models, strict=True))
    picked = fused.subset([2, 0])
    assert picked.num_stages == 2 and picked.weights == [3, 1]
    expected = fuse_embeddings([one_pass[2], one_pass[0]], "mean-cosine", [3, 1])
    assert torch.equal(picked.encode_image(images), expected)
    for indices in ([], [0, 0], [3], [-1]):
        with pytest.raises(UserError, match="distinct numbers"):
            fused.subset(indices)
    for wrong in ({}, {"image": images, "text": tokens()}):
        with pytest.raises(ValueError, match="images or texts"):
            fused.stage_embeddings(**wrong)


@torch.no_grad()
def test_stages_of_different_architecture():
    conv = tiny_model("timm-conv", seed=2, image_size=32)
    small = vit(1, embed_dim=16)
    fused = FusedCLIP([stage(copy.deepcopy(small)), stage(copy.deepcopy(conv), "timm-conv")])
    images = tiny_images(small, 2)
    first, second = fused.stage_embeddings(image=images)
    assert (first.shape, second.shape) == ((2, 16), (2, 24)) and fused.encode_image(images).shape == (2, 40)
    assert torch.equal(first, small.encode_image(images)) and torch.equal(second, conv.encode_image(images))


@torch.no_grad()
def test_other_means_and_deviations_are_handled():
    models = [vit(1), vit(2)]
    models[1].visual.preprocess_cfg |= {"mean": (0.5, 0.4, 0.3), "std": (0.5, 0.25, 0.2)}
    fused = fused_of(*models)
    picture = Image.effect_noise((40, 40), 80).convert("RGB")
    for stage_of, embedding in zip(
        fused.stage_info, fused.stage_embeddings(image=fused.preprocess(picture)[None]), strict=True
    ):
        expected = stage_of.model.encode_image(stage_of.preprocess(picture)[None])
        assert torch.allclose(embedding, expected, atol=1e-5)


def test_what_cannot_be_one_model_is_refused_in_words(tmp_path):
    words = get_tokenizer("ViT-B-32", context_length=16)
    from mcl_clip.openclip.tokenizers import HFTokenizer

    other = HFTokenizer(str(word_tokenizer(tmp_path)), context_length=16)
    more = HFTokenizer(str(word_tokenizer(tmp_path / "more", "zebra")), context_length=16)
    assert torch.equal(more(["a cat"]), other(["a cat"]))
    with pytest.raises(UserError, match="another tokenizer"):
        FusedCLIP([stage(vit(1), tokenizer=other), stage(vit(2), tokenizer=more)])
    cases = {
        "one image cannot serve both": [stage(vit(1)), stage(vit(2, image_size=48))],
        "share tokenizer and context length": [stage(vit(1)), stage(vit(2, context_length=9))],
        "another tokenizer": [stage(vit(1), tokenizer=words), stage(vit(2), tokenizer=other)],
        "sigmoid": [stage(vit(1)), stage(vit(2, init_logit_bias=-10.0))],
        "at least one stage": [],
    }
    for reason, stages in cases.items():
        with pytest.raises(UserError, match=reason):
            FusedCLIP(stages)
    for options in ({"fusion": "sum"}, {"weights": [1, 2]}, {"fusion": "mean-cosine", "weights": [1]}):
        with pytest.raises(UserError, match=r"--fusion|--weights"):
            fused_of(vit(1), vit(2), **options)
    for weights in ([0, 1], [-1, 2], [math.inf, 1], [math.nan, 1]):
        with pytest.raises(UserError, match="positive"):
            fused_of(vit(1), vit(2), fusion="mean-cosine", weights=weights)


@torch.no_grad()
def test_batch_norm_that_moved_shares_nothing_and_says_so():
    base = tiny_model("resnet", seed=1)
    moved, still = copy.deepcopy(base), copy.deepcopy(base)
    moved.lock_image_tower()
    moved.train()
    moved.encode_image(tiny_images(base, 8, seed=3))
    with pytest.warns(UserWarning, match=r"BatchNorm statistics moved.*lock-image-freeze-bn-stats"):
        fused = FusedCLIP([stage(base, "resnet"), stage(moved, "resnet")])
    assert fused.sharing["image"] == {"steps": 12, "separate": 12}
    images = tiny_images(base, 2)
    alone = [base.encode_image(images), moved.eval().encode_image(images)]
    assert all(map(torch.equal, fused.stage_embeddings(image=images), alone)) and not torch.equal(*alone)
    assert FusedCLIP([stage(base, "resnet"), stage(still, "resnet")]).sharing["image"]["steps"] == 6


@torch.no_grad()
def test_a_deep_copy_and_half_precision_keep_working():
    base = vit(1)
    other = copy.deepcopy(base)
    other.visual.proj.add_(0.1)
    fused, images = fused_of(base, other), tiny_images(base, 2)
    expected = fused.encode_image(images)
    twin = copy.deepcopy(fused)
    for parameter in fused.parameters():
        parameter.zero_()
    assert torch.equal(twin.encode_image(images), expected)
    half = twin.to(torch.bfloat16)
    assert half.encode_image(images.bfloat16()).dtype == torch.bfloat16
    assert torch.allclose(half.encode_image(images.bfloat16()).float(), expected, atol=0.1)


@torch.no_grad()
def test_gradients_reach_every_stage_through_shared_blocks():
    base = vit(1)
    other = copy.deepcopy(base)
    other.visual.proj.add_(0.1)
    fused = fused_of(base, other)
    with torch.enable_grad():
        fused.encode_image(tiny_images(base, 2)).sum().backward()
        expected = base.encode_image(tiny_images(base, 2)).sum() + other.encode_image(tiny_images(base, 2)).sum()
        expected.backward()
    ours = fused.stages[0].visual.conv1.weight.grad
    assert torch.allclose(ours, base.visual.conv1.weight.grad + other.visual.conv1.weight.grad, atol=1e-5)


@torch.no_grad()
def test_open_clips_zero_shot_classifier_runs_on_it():
    models = [vit(1), vit(2)]
    fused = fused_of(*models)
    classes, templates = ["circle", "square", "cat"], ["a photo of a {}.", "a red {}"]
    weights = build_zero_shot_classifier(fused, fused.tokenizer, classes, templates)
    for column, name in enumerate(classes):
        texts = fused.tokenizer([template.format(name) for template in templates])
        raw = torch.cat([model.encode_text(texts) for model in models], dim=1)
        mean = (raw / raw.norm(dim=1, keepdim=True)).mean(0)
        assert torch.allclose(weights[:, column], mean / mean.norm(), atol=1e-6)


def test_clip_benchmarks_own_command_runs_on_it(tmp_path, capsys):
    import io
    import tarfile

    fused = fused_of(vit(1), vit(2), fusion="fitted", weights=[0.3, 0.7])
    save_fused(fused, tmp_path / "fused")
    pictures = [Image.effect_noise((40, 40), 20 + 30 * number).convert("RGB") for number in range(9)]
    root = tmp_path / "data"
    (root / "test").mkdir(parents=True)
    (root / "test" / "nshards.txt").write_text("1")
    (root / "classnames.txt").write_text("circle\nsquare\ncat\n")
    (root / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\n")
    with tarfile.open(root / "test" / "0.tar", "w") as tar:
        for number, picture in enumerate(pictures):
            encoded = io.BytesIO()
            picture.save(encoded, "PNG")
            for name, data in (
                (f"{number}.png", encoded.getvalue()),
                (f"{number}.cls", str(number % 3).encode()),
            ):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    before = list(sys.argv)
    arguments = [
        "eval",
        "--dataset",
        "wds/shapes",
        "--dataset_root",
        str(root),
        "--model",
        str(tmp_path / "fused"),
    ]
    arguments += [
        "--output",
        str(tmp_path / "scores.json"),
        "--no_amp",
        "--num_workers",
        "0",
        "--batch_size",
        "4",
    ]
    arguments += ["--task", "zeroshot_classification", "--quiet", "--pretrained", "none"]
    assert clip_benchmark.main(arguments) == 0 and sys.argv == before
    result = json.loads((tmp_path / "scores.json").read_text())
    model, preprocess, tokenizer = mcl_clip.load(tmp_path / "fused")
    with torch.no_grad():
        weights = build_zero_shot_classifier(model, tokenizer, ["circle", "square", "cat"], ["a photo of a {}."])
        images = torch.stack([preprocess(picture) for picture in pictures])
        right = (model.encode_image(images, True) @ weights).argmax(1) == torch.arange(9) % 3
    assert result["metrics"]["acc1"] == pytest.approx(right.float().mean().item())
    assert result["model"] == str(tmp_path / "fused")
