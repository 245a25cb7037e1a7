"""Scored images: the training decoder's pixels are those of open_clip's preprocessing, in order, under any threads."""

import io
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from eval.data.images import Sample, batches
from eval.embedding import embed_all_images
from eval.models import ScoredModel
from mcl_clip.errors import UserError
from mcl_clip.loading.augment import EvalTransform
from mcl_clip.openclip.models import set_model_preprocess_cfg
from mcl_clip.openclip.transforms import PreprocessCfg, image_transform_v2
from tests.tiny_models import tiny_model


def encoded(height: int, width: int, kind: str, seed: int = 0) -> bytes:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    noisy = np.clip(np.asarray(coarse) + rng.normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noisy).save(stream, kind)
    return stream.getvalue()


def scored(preprocess=None, **cfg) -> ScoredModel:
    model = tiny_model("vit", 0)
    full = vars(PreprocessCfg(size=32, **cfg))
    set_model_preprocess_cfg(model, full)
    return ScoredModel(model, preprocess or image_transform_v2(PreprocessCfg(**full), is_train=False), None)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "PPM"])
@pytest.mark.parametrize("cfg", [{}, {"resize_mode": "squash"}, {"interpolation": "bilinear"}], ids=str)
def test_pixels_are_those_of_open_clips_preprocessing(kind, cfg) -> None:
    model = scored(**cfg)
    images = [encoded(*shape, kind, seed) for seed, shape in enumerate([(40, 60), (90, 50), (32, 32), (20, 25)])]
    decoded = torch.stack([model.decoded(each) for each in images])
    assert isinstance(model._transform, EvalTransform) and decoded.dtype == torch.uint8
    expected = torch.stack([model.preprocess(Image.open(io.BytesIO(each)).convert("RGB")) for each in images])
    levels = torch.tensor(PreprocessCfg().std).view(3, 1, 1) * 255
    apart = ((model.to_device(decoded) - expected) * levels).abs()
    assert (apart > 1.001).float().mean() < 5e-4 and apart.max() < 2.001


@pytest.mark.parametrize("count", [1, 5])
def test_embeddings_are_the_models_however_a_batch_is_sliced(count) -> None:
    model = scored()
    data = [encoded(40, 50, "JPEG", seed) for seed in range(count)]
    samples = [Sample(partial(bytes, each), f"image {label}", label) for label, each in enumerate(data)]
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        stages, labels, _ = embed_all_images(model, samples, count, batch_size=4)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    with torch.inference_mode():
        alone = torch.cat([model.model.encode_image(model.to_device(model.decoded(each)[None])) for each in data])
    assert labels == list(range(count))
    torch.testing.assert_close(stages[0], alone, rtol=1e-4, atol=1e-5)


def test_another_preprocessing_is_called_as_it_is() -> None:
    model = scored(lambda image: torch.full((3, 32, 32), float(image.width)))
    images = model.to_device(torch.stack([model.decoded(encoded(8, width, "PNG")) for width in (5, 9)]))
    assert images.dtype == torch.float32 and images[:, 0, 0, 0].tolist() == [5, 9]


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_keep_the_order_and_name_a_broken_image(workers) -> None:
    model = scored()
    data = [encoded(40, 50, "JPEG", seed) for seed in range(7)]
    samples = [Sample(partial(bytes, each), f"image {label}", label) for label, each in enumerate(data)]
    found = list(batches(samples, model.decoded, 3, workers))
    assert [batch.labels for batch in found] == [[0, 1, 2], [3, 4, 5], [6]]
    assert torch.equal(
        torch.cat([batch.pixels for batch in found]), torch.stack([model.decoded(each) for each in data])
    )
    broken = [*samples, Sample(lambda: data[0][:200], "image 7")]
    with pytest.raises(UserError, match="image 7 does not open as an image"):
        list(batches(broken, model.decoded, 3, workers))
    unknown = [Sample(lambda: b"no image", "image 8")]
    for each in (model, scored(lambda image: image)):
        with pytest.raises(UserError, match=r"^image 8 does not open as an image \(no known format\); fetch it again$"):
            list(batches(unknown, each.decoded, 3, workers))
