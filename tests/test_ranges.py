"""Remote tars by byte ranges: what is fetched is what is used, from a web server and from S3."""

import os
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcl_clip import seeds
from mcl_clip.errors import UserError
from mcl_clip.loading.loader import GlobalBatchLoader
from mcl_clip.plan.policy import Policy
from mcl_clip.shards import ranges, remote
from mcl_clip.shards.buckets import write_buckets
from mcl_clip.shards.index import index_sources
from mcl_clip.shards.ranges import BLOCK, GAP, fetch, joined
from mcl_clip.shards.reader import Tars
from mcl_clip.shards.verify import verify
from tests.data import TRANSFORM, tokenize
from tests.servers import counted, web
from tests.tars import image_bytes, write_tar
from tests.test_buckets import contents

SHARDS, SAMPLES = 16, 24
MANY = {"shard_size": 6, "unit_samples": 96}


class ManyLabels:
    """A label of 48 by the sample's place: every tar's samples go to 24 of them."""

    hash = "many"

    def labels_for(self, shard, keys, *, partial=False):
        return [str((int(key) * 7 + int(shard)) % 48) for key in keys]

    def check_shards(self, shards):
        pass


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """(folder of tars as img2dataset writes them, their index made of the local files); images of 20 KiB and more."""
    folder, paths = tmp_path_factory.mktemp("data"), []
    for shard in range(SHARDS):
        files = []
        for sample in range(SAMPLES):
            key, image = f"{shard:05d}{sample:04d}", image_bytes(shard, sample, size=600)
            image += bytes(seeds.generator(shard, sample).bytes(14_000))  # behind a JPEG's end, as cameras leave things
            files += [(f"{key}.jpg", image), (f"{key}.json", b'{"width": 600}'), (f"{key}.txt", b"a caption")]
        paths.append(write_tar(folder / f"{shard:05d}.tar", files))
    return folder, index_sources(paths, tmp_path_factory.mktemp("index"))


@pytest.fixture
def small_cache(tmp_path, monkeypatch, data):
    """A cache that holds two tars."""
    monkeypatch.setenv("MCL_CACHE_DIR", str(tmp_path / "cache"))
    size = max(path.stat().st_size for path in data[0].iterdir())
    monkeypatch.setenv("MCL_CACHE_GIB", str(2.5 * size / remote.GIB))
    return tmp_path / "cache"


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 200_000), st.integers(1, 9000)), max_size=40))
def test_requests_cover_all_ranges_and_little_else(wanted):
    tar, start, stop = joined(*np.array(wanted, np.int64).reshape(-1, 3).T)
    requests = list(zip(tar.tolist(), start.tolist(), stop.tolist(), strict=True))
    assert requests == sorted(requests)
    for which, low, size in wanted:
        assert sum(t == which and a <= low and low + size <= b for t, a, b in requests) >= 1
    for before, after in pairwise(requests):
        assert before[0] < after[0] or after[1] > before[2] + GAP or after[2] - before[1] > BLOCK
    used = {(which, byte) for which, low, size in wanted for byte in (low, low + size)}
    assert all((t, a) in used and (t, b) in used for t, a, b in requests)


def used_by_buckets(manifest):
    tables = [manifest.open_shard(shard).table for shard in range(manifest.num_shards)]
    return sum(int(table["sample_size"].to_numpy().sum()) for table in tables)


def bucket_and_count(url, counter, data, tmp_path, workers):
    """Buckets of an index over the URL; (bytes fetched while bucketing) / (bytes of the samples)."""
    distant = index_sources([f"{url}/{shard:05d}.tar" for shard in range(SHARDS)], tmp_path / "distant")
    assert distant.hash == data[1].hash
    before = counter.bytes
    buckets = write_buckets(distant, ManyLabels(), tmp_path / "b", workers=workers, **MANY)
    fetched = counter.bytes - before
    here = write_buckets(data[1], ManyLabels(), tmp_path / "here", **MANY)
    assert buckets.hash == here.hash and len(here.label_paths) == 48
    assert contents(buckets) == contents(here) and verify(buckets.directory) == []
    return fetched / used_by_buckets(here)


def test_bucketing_from_a_web_server_fetches_each_sample_once(data, small_cache, tmp_path):
    pytest.importorskip("aiohttp", reason="mcl_clip[http]")
    with web(data[0]) as (url, counter):
        assert 0.9 < bucket_and_count(url, counter, data, tmp_path, workers=2) <= 1.1


def test_a_server_without_ranges_is_read_through_the_cache_for_buckets_and_refused_for_rows(
    data, small_cache, tmp_path, caplog
):
    pytest.importorskip("aiohttp", reason="mcl_clip[http]")
    with web(data[0], ranges=False) as (url, counter):
        assert bucket_and_count(url, counter, data, tmp_path, workers=1) > 1.1
        assert caplog.text.count("gives no ranges of bytes, only whole tars; read through the cache instead") == 1
        distant = index_sources([f"{url}/{shard:05d}.tar" for shard in range(SHARDS)], tmp_path / "distant")
        rows = write_buckets(distant, ManyLabels(), tmp_path / "rows", index_only=True, **MANY)
        with pytest.raises(UserError, match=r"tar: its server gives no ranges of bytes.*copy or mount the data"):
            list(loader_of(rows, 0))


def loader_of(manifest, workers):
    options = {"seed": 1, "stage": 1, "batch_size": 16, "workers": workers, "policy": Policy(min_segment=2)}
    return GlobalBatchLoader(manifest, transform=TRANSFORM, tokenizer=tokenize, **options)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_on_rows_of_remote_tars_fetches_little_more_than_it_uses(data, small_cache, tmp_path, workers):
    pytest.importorskip("aiohttp", reason="mcl_clip[http]")
    here = write_buckets(data[1], ManyLabels(), tmp_path / "here", index_only=True, **MANY)
    with web(data[0]) as (url, counter):
        distant = index_sources([f"{url}/{shard:05d}.tar" for shard in range(SHARDS)], tmp_path / "distant")
        rows = write_buckets(distant, ManyLabels(), tmp_path / "there", index_only=True, **MANY)
        before = counter.bytes
        batches = list(loader_of(rows, workers))
        fetched = counter.bytes - before
        if workers:
            return  # readers run ahead into the next epoch: what they fetched is no count of one
    local = list(loader_of(here, 0))
    assert [batch.keys for batch in batches] == [batch.keys for batch in local]
    assert all(bool((a.images == b.images).all()) for a, b in zip(batches, local, strict=True))
    taken = [rows.open_shard(shard).table for shard in range(rows.num_shards)]
    used = sum(int(table[f"{name}_size"].to_numpy().sum()) for table in taken for name in ("image", "caption"))
    padded = len(batches) * 16 / rows.num_samples  # samples of an epoch are taken once, but for padding
    assert 1 <= fetched / used <= 1.3 * padded
    assert padded < 1.05


def test_what_fails_for_a_moment_is_asked_again_and_what_lasts_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    (tmp_path / "a").write_bytes(bytes(range(100)))
    asked, ask = [], ranges._ask

    def flaky(urls, starts, stops):
        asked.append(len(urls))
        return [OSError("reset") if len(asked) < 4 else answer for answer in ask(urls, starts, stops)]

    url = f"file://{tmp_path}/a"
    ranges._probe.cache_clear()
    monkeypatch.setattr(ranges, "_ask", flaky)
    assert fetch([url, url], [3, 10], [5, 11]) == [bytes([3, 4]), bytes([10])]
    monkeypatch.setattr(ranges, "_ask", lambda urls, *_: [OSError("reset")] * len(urls))
    with pytest.raises(UserError, match=r"/a cannot be read \(OSError: reset"):
        fetch([url], [0], [1])
    monkeypatch.setattr(ranges, "_ask", ask)
    with pytest.raises(UserError, match="ends early: a range of 8 bytes gave 4"):
        fetch([url], [96], [104])
    with pytest.raises(UserError, match=r"nowhere cannot be read \(there is no such file"):
        fetch([f"file://{tmp_path}/nowhere"], [0], [1])


def test_ranges_are_had_in_turn_as_they_are_locally(data, monkeypatch):
    monkeypatch.setattr("mcl_clip.shards.reader.AHEAD", 50_000)
    paths = sorted(map(str, data[0].iterdir()))
    sizes = [os.path.getsize(path) for path in paths]
    random = seeds.generator(3)
    wanted = [(int(random.integers(SHARDS)), int(random.integers(9000)), int(random.integers(9000))) for _ in range(60)]
    near, far = Tars(paths, sizes), Tars([f"file://{path}" for path in paths], sizes, ranged=True)
    assert list(far.in_turn(wanted)) == [near.read(*each) for each in wanted] == list(near.in_turn(wanted))
    assert list(near.in_turn([])) == []


def test_bucketing_from_s3_fetches_each_sample_once(data, small_cache, tmp_path, monkeypatch):
    pytest.importorskip("s3fs", reason="mcl_clip[s3]")
    moto = pytest.importorskip("moto.server", reason="moto[server]")
    import fsspec

    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        with counted(port) as (relayed, counter):
            for name, value in {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{relayed}", "AWS_ACCESS_KEY_ID": "a",
                "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1",
            }.items():  # fmt: skip
                monkeypatch.setenv(name, value)
            store = fsspec.filesystem("s3", skip_instance_cache=True)
            store.mkdir("bucket")
            for path in data[0].iterdir():
                store.pipe(f"bucket/{path.name}", path.read_bytes())
            assert 0.9 < bucket_and_count("s3://bucket", counter, data, tmp_path, workers=2) <= 1.1
    finally:
        server.stop()
