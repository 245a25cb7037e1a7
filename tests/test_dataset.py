"""What a worker gives for a request: the named samples, pure, with unreadable ones replaced."""

import json
import pickle

import numpy as np
import pytest
import torch

from mcl_clip.loading.augment import eval_transform, pil_train_transform
from mcl_clip.loading.dataset import Request, ShardDataset, sample_words
from mcl_clip.loading.loader import GlobalBatchLoader
from mcl_clip.plan.epochs import EpochPlans
from mcl_clip.plan.policy import Policy
from mcl_clip.shards.buckets import write_buckets
from mcl_clip.shards.index import index_sources
from mcl_clip.shards.manifest import Manifest
from tests.data import TRANSFORM, labelled, make_index, planned_keys, tokenize
from tests.tars import image_bytes, write_shards, write_tar

LABELS = ("0/0", "0/1", "0/0", "1/0", "0/0", "1/0")


def dataset_of(index, global_batch=12, labels=LABELS, min_segment=2, transform=TRANSFORM):
    manifest = labelled(index, labels)
    plans = EpochPlans(
        manifest.label_paths,
        manifest.shard_label,
        manifest.shard_size,
        seed=3,
        stage=1,
        global_batch=global_batch,
        policy=Policy(min_segment=min_segment),
    )
    return ShardDataset(manifest, plans, transform, tokenize)


def request(dataset, t, start=0, stop=None, epoch=0):
    plan = dataset.plans[epoch]
    stop = plan.global_batch if stop is None else stop
    return Request(epoch, t, start, *plan.positions(t, start, stop))


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return make_index(tmp_path_factory.mktemp("data"), 6, 9)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    broken = [(0, 1), (0, 2), (2, 5), (4, 8), (3, 0)]
    return make_index(tmp_path_factory.mktemp("faulty"), 6, 9, broken_image=broken)


def test_one_of_several_captions_is_drawn_for_each_epoch(tmp_path):
    files = []
    for number in range(8):
        texts = [f"{number} {word}" for word in ("a", "b", "c")]
        files += [(f"{number}.jpg", image_bytes(number)), (f"{number}.json", json.dumps({"texts": texts}).encode())]
    tar = write_tar(tmp_path / "00000.tar", files)
    manifest = index_sources([tar], tmp_path / "index", caption_key="none;texts")
    assert manifest.num_samples == 8 and manifest.open_shard(0).read_caption(3) == "3 a"
    seen: dict[str, set[str]] = {}
    for epoch in range(12):
        told: list[str] = []

        def listen(captions, told=told):
            told += captions
            return torch.zeros(len(captions), 4, dtype=torch.int64)

        plans = EpochPlans(manifest.label_paths, manifest.shard_label, manifest.shard_size, 0, 1, 4, Policy())
        dataset = ShardDataset(manifest, plans, eval_transform({"size": 16}), listen)
        for t in range(2):
            shard, ordinal = plans[epoch].positions(t, 0, 4)
            dataset[Request(epoch, t, 0, shard, ordinal)]
            again = len(told)
            dataset[Request(epoch, t, 0, shard[::-1], ordinal[::-1])]  # in another order, on another rank
            assert told[again:] == told[again - 4 : again][::-1]
        for caption in told:
            seen.setdefault(caption[0], set()).add(caption)
    assert len(seen) == 8 and all(len(captions) > 1 for captions in seen.values())
    assert set.union(*seen.values()) == {f"{number} {word}" for number in range(8) for word in ("a", "b", "c")}


def test_a_request_gives_the_samples_it_names(index):
    dataset = dataset_of(index)
    asked = request(dataset, 1)
    samples = dataset[asked]
    assert samples.keys == planned_keys(dataset.manifest, asked.shard, asked.ordinal)
    assert samples.images.shape == (12, 3, 16, 16)
    assert samples.images.dtype == torch.uint8
    words = sample_words(3, 1, 0, asked.shard, asked.ordinal)
    for place, (shard, ordinal) in enumerate(zip(asked.shard, asked.ordinal, strict=True)):
        expected, _ = TRANSFORM(image_bytes(0, int(shard), int(ordinal)), words[place])
        assert torch.equal(samples.images[place], expected)
        caption = f"caption {ordinal} of shard {shard}, seed 0"
        assert torch.equal(samples.texts[place], tokenize([caption])[0])


def test_augmentation_depends_on_the_sample_and_the_epoch_only(index):
    dataset = dataset_of(index)
    whole = dataset[request(dataset, 0)]
    parts = [pickle.loads(pickle.dumps(dataset))[request(dataset, 0, at, at + 3)] for at in (0, 3, 6, 9)]
    assert torch.equal(whole.images, torch.cat([part.images for part in parts]))
    shard, ordinal = dataset.plans[0].positions(0, 0, 12)
    later = dataset[Request(1, 0, 0, shard, ordinal)]
    assert later.keys == whole.keys
    assert not torch.equal(later.images, whole.images)


def test_words_of_all_samples_differ():
    shard, ordinal = np.divmod(np.arange(4000, dtype=np.int32), 50)
    words = np.concatenate([sample_words(0, 0, epoch, shard, ordinal) for epoch in (0, 1)])
    assert len(np.unique(words)) == words.size
    assert abs((words >> np.uint64(11)).astype(float).mean() * 2.0**-53 - 0.5) < 0.005


def test_faults_are_replaced_in_place_whatever_the_split(faulty):
    dataset = dataset_of(faulty)
    lost = {"00000/000000001", "00000/000000002", "00002/000020005", "00004/000040008", "00003/000030000"}
    seen = []
    for t in range(len(dataset.plans[0])):
        batch, asked = dataset.plans[0][t], request(dataset, t)
        samples = dataset[asked]
        assert samples.error is None
        names = planned_keys(dataset.manifest, asked.shard, asked.ordinal)
        assert {key for key, _ in samples.faults} == lost & set(names)
        assert len(set(samples.keys)) == 12
        for place, (name, key) in enumerate(zip(names, samples.keys, strict=True)):
            if name not in lost:
                assert key == name
                continue
            assert key not in lost and key not in names
            segment = next(i for i, (a, b) in enumerate(batch.layout.bounds()) if a <= place < b)
            assert LABELS[int(key[:5])] == batch.labels[segment]
        split = [dataset[request(dataset, t, at, at + 4)] for at in (0, 4, 8)]
        assert samples.keys == [key for part in split for key in part.keys]
        assert torch.equal(samples.images, torch.cat([part.images for part in split]))
        seen += [key for key, _ in samples.faults]
    assert set(seen) == lost


def test_two_faults_do_not_share_the_only_sample_outside(tmp_path):
    plans = EpochPlans([""], np.array([0]), np.array([13]), seed=3, stage=1, global_batch=12, policy=Policy())
    _, ordinals = plans[0].positions(0, 0, 12)
    first, second = 2, 9
    index = make_index(tmp_path, 1, 13, broken_image=[(0, int(ordinals[place])) for place in (first, second)])
    dataset = dataset_of(index, labels=[""], min_segment=32)
    results = [dataset[request(dataset, 0, at, at + 1)] for at in range(12)]
    assert [place for place, result in enumerate(results) if result.missing] == [second]
    keys = [key for result in results for key in result.keys]
    assert keys[second] == f"00000/00000{ordinals[second]:04d}" and len(set(keys)) == 12
    left = set(range(13)) - set(ordinals.tolist())
    assert keys[first] == f"00000/00000{left.pop():04d}"


def test_where_none_is_left_the_row_is_missing(tmp_path):
    dataset = dataset_of(make_index(tmp_path, 1, 12, broken_image=[(0, 4)]), labels=[""])
    samples = dataset[request(dataset, 0)]
    (lost,) = samples.missing
    assert samples.error is None and samples.keys[lost] == "00000/000000004"
    assert torch.equal(samples.texts[lost], tokenize([""])[0])
    alone = dataset[request(dataset, 0, lost, lost + 1)]
    assert alone.missing == [0] and len(alone.images) == 1


def test_no_more_substitutes_are_tried_than_the_bound(tmp_path, monkeypatch):
    """Data that is broken as a whole must not be read as a whole for every one of its samples."""
    dataset = dataset_of(make_index(tmp_path, 1, 90, broken_image=[(0, n) for n in range(90)]), labels=[""])
    monkeypatch.setattr("mcl_clip.loading.dataset.MOST_TRIED", 3)
    tried = []
    read = ShardDataset._read
    monkeypatch.setattr(ShardDataset, "_read", lambda *args: tried.append(args[1:3]) or read(*args))
    assert dataset[request(dataset, 0, 0, 1)].missing == [0]
    assert len(tried) == 4


def test_open_clips_own_transform_can_be_used(index):
    dataset = dataset_of(index, transform=pil_train_transform({"size": 16}))
    first, second = dataset[request(dataset, 0)], dataset[request(dataset, 0)]
    assert first.images.dtype == torch.float32
    assert first.slow == 12
    assert torch.equal(first.images, second.images)


class LabelByKey:
    """Three skewed labels, a function of the source key."""

    hash = "by key"

    def labels_for(self, shard, keys, *, partial=False):
        return [str(min(int(key) % 9 // 4, 1)) if int(key) % 7 else "2" for key in keys]

    def check_shards(self, shards):
        pass


def test_source_buckets_and_index_only_are_one_class(index, tmp_path):
    source = Manifest.load(index)
    tars = write_buckets(source, LabelByKey(), tmp_path / "tars", shard_size=5)
    pointers = write_buckets(source, LabelByKey(), tmp_path / "pointers", shard_size=5, index_only=True)
    assert [m.kind for m in (source, tars, pointers)] == ["source", "buckets", "index-only"]
    found = []
    for manifest in (source, tars, pointers):
        plans = EpochPlans(
            manifest.label_paths, manifest.shard_label, manifest.shard_size, 3, 1, 6, Policy(min_segment=2)
        )
        dataset = ShardDataset(manifest, plans, eval_transform({"size": 16}), tokenize)
        seen = {}
        for t in range(len(plans[0])):
            samples, layout = dataset[request(dataset, t)], plans[0].layout(t)
            for place, key in enumerate(samples.keys):
                seen[key] = (samples.images[place].numpy().tobytes(), samples.texts[place].tolist())
            if manifest is not source:
                for (start, stop), label in zip(layout.bounds(), plans[0][t].labels, strict=True):
                    own = LabelByKey().labels_for("", [key.split("/")[1] for key in samples.keys[start:stop]])
                    assert set(own) == {label}
        found.append(seen)
    assert len(found[0]) == 54
    assert found[0] == found[1] == found[2]


def test_a_repeated_sample_has_another_crop_each_time(tmp_path):
    index = index_sources(write_shards(tmp_path / "tars", 2, 12), tmp_path / "index", repeats=[1, 3])
    options = {"seed": 0, "stage": 0, "batch_size": 8, "transform": TRANSFORM, "tokenizer": tokenize}
    given: dict = {}
    for batch in GlobalBatchLoader(index, **options):
        assert len(set(batch.keys)) == 8
        for key, image in zip(batch.keys, batch.images, strict=True):
            given.setdefault(key, []).append(image)
    assert {key: len(images) for key, images in given.items()} == {
        f"{shard:05d}/{shard:05d}{sample:04d}": count for shard, count in ((0, 1), (1, 3)) for sample in range(12)
    }
    for images in given.values():
        assert len({image.numpy().tobytes() for image in images}) == len(images)
