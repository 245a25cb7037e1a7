"""One stage's embedding size, the same scores: classification and MMVP's ranking alike."""

import copy

import pytest
import torch
import torch.nn.functional as F

from eval.data.mmvp import read_pairs
from eval.mmvp import evaluate
from eval.models import ScoredModel
from eval.tasks.pair_similarities import pair_similarities
from mcl_clip.errors import UserError
from mcl_clip.fusion.files import load_fused, save_fused
from mcl_clip.openclip.zero_shot import build_zero_shot_classifier
from tests.test_fused_model import fused_of, tokens, vit
from tests.test_mmvp import write_questions, write_set
from tests.tiny_models import tiny_images

FUSIONS = [
    {},
    {"fusion": "mean-cosine"},
    {"fusion": "mean-cosine", "weights": [1.0, 2.0, 5.0]},
    {"fusion": "fitted", "weights": [0.2, 0.001, 0.799]},
]


def with_shared_text(seeds=(1, 2, 3)):
    """Stages of one text tower whose image towers, and the norms of their embeddings, differ."""
    models = [vit(seed) for seed in seeds]
    for factor, model in enumerate(models, start=1):
        image_tower = {name: t * 1.0 for name, t in model.state_dict().items() if name.startswith("visual.")}
        image_tower["visual.proj"] *= factor
        model.load_state_dict(models[0].state_dict() | image_tower)
    return models


@pytest.mark.parametrize("options", FUSIONS)
@torch.no_grad()
def test_dot_products_are_the_fused_cosines(options):
    fused = fused_of(*with_shared_text(), **options)
    collapsed, images = fused.collapse(), tiny_images(vit(1), 6)
    assert fused.shares_text_tower and collapsed.collapsed
    assert collapsed.encode_image(images).shape == (6, 24) and collapsed.visual.output_dim == 24
    expected = fused.encode_image(images, normalize=True) @ fused.encode_text(tokens(), normalize=True).T
    scores = collapsed.encode_image(images, normalize=True) @ collapsed.encode_text(tokens(), normalize=True).T
    assert torch.allclose(scores, expected, atol=1e-6)
    assert torch.allclose(collapsed.get_logits(images, tokens())[0], fused.get_logits(images, tokens())[0], atol=1e-4)
    assert torch.equal(collapsed.logit_scale, fused.logit_scale) and collapsed.collapse().visual.output_dim == 24


@pytest.mark.parametrize("options", FUSIONS)
@torch.no_grad()
def test_classes_survive_renormalisation_and_raw_scores_are_proportional(options):
    fused = fused_of(*with_shared_text(), **options)
    collapsed, images = fused.collapse(), tiny_images(vit(1), 40)
    classes, templates = ["circle", "square", "cat", "dog"], ["a photo of a {}.", "a red {}"]
    both = [build_zero_shot_classifier(model, model.tokenizer, classes, templates) for model in (fused, collapsed)]
    expected = fused.encode_image(images, normalize=True) @ both[0]
    ours = collapsed.encode_image(images, normalize=True) @ both[1]
    assert torch.allclose(
        ours / ours.norm(dim=1, keepdim=True), expected / expected.norm(dim=1, keepdim=True), atol=1e-4
    )
    again = F.normalize(collapsed.encode_image(images), dim=1) @ both[1]
    assert torch.equal(again.argmax(1), expected.argmax(1))


@torch.no_grad()
def test_vectors_are_not_unit_and_renormalising_them_changes_the_order_of_images():
    """What the documentation warns of: by the cosine of collapsed vectors a text ranks images otherwise."""
    fused = fused_of(*with_shared_text())
    collapsed, images = fused.collapse(), tiny_images(vit(1), 60)
    vectors = collapsed.encode_image(images, normalize=True)
    assert (vectors.norm(dim=1) < 1).all()
    texts = collapsed.encode_text(tokens(), normalize=True)
    expected = fused.encode_text(tokens(), normalize=True) @ fused.encode_image(images, normalize=True).T
    assert torch.equal((texts @ vectors.T).argsort(1), expected.argsort(1))
    assert not torch.equal((texts @ F.normalize(vectors, dim=1).T).argsort(1), expected.argsort(1))


def test_mmvp_scores_are_the_same(tmp_path):
    write_questions(tmp_path, write_set(tmp_path, pairs=8))
    fused, pairs = fused_of(*with_shared_text()), read_pairs(tmp_path)
    models = (fused, fused.collapse())
    scores = [evaluate(ScoredModel(m, m.preprocess, m.tokenizer, name="tiny"), pairs) for m in models]
    assert [row["model"] for row in scores[0]][-1] == "fused"
    for ours, theirs in zip(*scores, strict=True):
        assert ours["metrics"] == pytest.approx(theirs["metrics"], abs=1e-5)
    with torch.no_grad():
        images, texts = tiny_images(vit(1), 40), torch.randint(1, 1000, (40, 16))
        correct = [pair_similarities(m.encode_image(images, True), m.encode_text(texts, True)).correct for m in models]
    assert correct[0].tolist() == correct[1].tolist()


def test_it_says_no_when_text_towers_differ():
    with pytest.raises(UserError, match="share one text tower"):
        fused_of(vit(1), vit(2)).collapse()


@torch.no_grad()
def test_the_collapsed_model_survives_the_disk(tmp_path):
    collapsed = fused_of(*with_shared_text()).collapse()
    save_fused(collapsed, tmp_path / "collapsed")
    again = load_fused(tmp_path / "collapsed")
    assert again.collapsed
    images = tiny_images(vit(1), 2)
    assert torch.equal(again.encode_image(images, True), collapsed.encode_image(images, True))
    subset = copy.deepcopy(again).subset([0, 2])
    assert subset.num_stages == 2 and subset.encode_image(images).shape == (2, 24)
