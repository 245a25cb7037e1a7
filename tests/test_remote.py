"""Remote tars through the bounded cache: a real server, a file system in memory, several processes."""

import fcntl
import http.server
import multiprocessing
import os
import threading
import time
from functools import partial

import fsspec
import pytest

from mcl_clip.errors import UserError
from mcl_clip.shards import remote
from mcl_clip.shards.buckets import write_buckets
from mcl_clip.shards.index import index_sources
from mcl_clip.shards.manifest import Manifest
from mcl_clip.shards.remote import TarCache, open_tar, remote_size
from mcl_clip.shards.sources import expand_sources, name_sources
from mcl_clip.shards.verify import verify
from tests.tars import write_shards
from tests.test_buckets import SMALL, HashLabels, contents

SLEEP = time.sleep


@pytest.fixture
def store(tmp_path, monkeypatch):
    """(a URL's folder in memory, its local twin's tars, the cache's directory); the cache holds about two tars."""
    paths = write_shards(tmp_path / "data", 4, 6)
    memory = fsspec.filesystem("memory")
    for path in paths:
        memory.pipe(f"/{tmp_path.name}/{os.path.basename(path)}", open(path, "rb").read())  # noqa: SIM115
    monkeypatch.setenv("MCL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MCL_CACHE_GIB", str(2.5 * max(map(os.path.getsize, paths)) / remote.GIB))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    yield f"memory:///{tmp_path.name}", paths, tmp_path / "cache"
    memory.rm(f"/{tmp_path.name}", recursive=True)


def held(cache):
    return sum(path.stat().st_size for path in cache.iterdir())


def test_a_remote_data_set_is_the_local_one(store, tmp_path):
    url, paths, cache = store
    spec = f"{url}/{{00000..00003}}.tar"
    assert expand_sources(spec) == expand_sources(f"{url}/*.tar") == [f"{url}/0000{n}.tar" for n in range(4)]
    local = index_sources(paths, tmp_path / "local")
    distant = index_sources(expand_sources(spec), tmp_path / "distant")
    assert distant.hash == local.hash
    assert contents(distant) == contents(local)
    assert index_sources(expand_sources(spec), tmp_path / "distant").hash == local.hash
    for index_only in (False, True):
        here, there = (
            write_buckets(source, HashLabels(), tmp_path / f"{name}{index_only}", index_only=index_only, **SMALL)
            for name, source in (("here", local), ("there", distant))
        )
        assert here.hash == there.hash
        assert contents(here) == contents(there)
        assert verify(there.directory) == []
    assert 0 < held(cache) <= 2.5 * max(map(os.path.getsize, paths))
    assert {path.suffix for path in cache.iterdir()} <= {".tar", ""}


def test_the_least_recently_used_is_evicted(store):
    url, paths, cache = store
    for number, kept in ((0, 1), (1, 2), (0, 2), (2, 2)):
        with open_tar(f"{url}/0000{number}.tar") as file:
            assert file.read() == open(paths[number], "rb").read()  # noqa: SIM115
        assert len(list(cache.glob("*.tar"))) == kept
    fsspec.filesystem("memory").rm(f"{url}/00000.tar")
    with open_tar(f"{url}/00000.tar", os.path.getsize(paths[0])) as file:  # used after 1, so it is still here
        assert len(file.read()) == os.path.getsize(paths[0])
    with pytest.raises(UserError, match=r"00000.tar cannot be read \(there is no such file"):
        remote_size(f"{url}/00000.tar")


def test_what_a_killed_process_left_is_removed_and_fetched_again(store):
    url, paths, cache = store
    with open_tar(f"{url}/00000.tar"):
        (whole,) = cache.glob("*.tar")
    whole.rename(whole.with_suffix(".part"))
    (cache / "other.part").write_bytes(bytes(10))
    with open_tar(f"{url}/00000.tar") as file:
        assert file.read() == open(paths[0], "rb").read()  # noqa: SIM115
    assert not list(cache.glob("*.part"))


@pytest.mark.parametrize(("change", "reason"), [(-1, "more than the"), (1, "ended after")])
def test_a_tar_of_another_size_is_refused(store, change, reason):
    url, paths, cache = store
    with pytest.raises(UserError, match=f"00000.tar.*{reason}"):
        open_tar(f"{url}/00000.tar", os.path.getsize(paths[0]) + change)
    assert held(cache) == 0


def test_a_tar_larger_than_the_cache_is_refused(store, monkeypatch):
    monkeypatch.setenv("MCL_CACHE_GIB", "0.000001")
    with pytest.raises(UserError, match="MCL_CACHE_GIB"):
        open_tar(f"{store[0]}/00000.tar")
    monkeypatch.setenv("MCL_CACHE_GIB", "much")
    with pytest.raises(UserError, match="MCL_CACHE_GIB=much"):
        open_tar(f"{store[0]}/00000.tar")


def test_a_failing_read_is_tried_again_and_then_said(store, monkeypatch):
    url, paths, _ = store
    memory = type(fsspec.filesystem("memory"))
    attempts, read = [], memory._open
    monkeypatch.setattr(memory, "_open", lambda *a, **k: attempts.append(1) or (_ for _ in ()).throw(OSError("reset")))
    with pytest.raises(UserError, match=r"00000.tar cannot be read \(OSError: reset"):
        open_tar(f"{url}/00000.tar")
    assert len(attempts) == remote.TRIES
    monkeypatch.setattr(memory, "_open", lambda *a, **k: read(*a, **k) if len(attempts) > 6 else attempts.append(1))
    with open_tar(f"{url}/00000.tar") as file:
        assert len(file.read()) == os.path.getsize(paths[0])


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("pipe:cat x.tar", "not pipe:"),
        ("nothing://x/0.tar", "no way to read nothing://"),
        ("memory://nowhere/*.tar", "no such tar"),
        ("memory://a/0.tar::memory://a/0.tar", "twice"),
    ],
)
def test_what_cannot_be_used_is_refused(spec, reason):
    with pytest.raises(UserError, match=f"--train-data.*{reason}"):
        expand_sources(spec)


def test_names_leave_out_host_and_query():
    assert name_sources(["https://h/d/0.tar?x=1", "https://h/d/1.tar?x=1"]) == ["0", "1"]
    assert name_sources(["s3://a/0.tar", "s3://b/0.tar"]) == ["a/0", "b/0"]


def _read_all(directory, folder, seed):
    """Read every tar of a folder in an order of its own, through a cache that holds two."""
    names = sorted(os.listdir(folder))
    size = max(os.path.getsize(folder / name) for name in names)
    cache = TarCache(directory, 2 * size)
    for turn in range(3 * len(names)):
        name = names[(turn * (2 * seed + 1)) % len(names)]
        with os.fdopen(cache.open(f"file://{folder}/{name}", os.path.getsize(folder / name)), "rb") as file:
            assert file.read() == (folder / name).read_bytes()
        with open(directory / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # nobody fetches, evicts or renames meanwhile
            assert held(directory) <= 2 * size


def test_processes_share_a_cache(tmp_path):
    write_shards(tmp_path / "data", 5, 4)
    context = multiprocessing.get_context("fork")
    readers = [
        context.Process(target=_read_all, args=(tmp_path / "cache", tmp_path / "data", seed)) for seed in range(4)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
        assert reader.exitcode == 0
    assert held(tmp_path / "cache") <= 2 * max(path.stat().st_size for path in (tmp_path / "data").iterdir())


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_a_web_server_is_read_in_worker_processes(store, tmp_path, monkeypatch):
    pytest.importorskip("aiohttp", reason="mcl_clip[http]")
    monkeypatch.setattr(time, "sleep", SLEEP)  # a busy server is given the time that a real one gets
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=tmp_path / "data"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        spec = f"http://127.0.0.1:{server.server_port}/{{00000..00003}}.tar"
        distant = index_sources(expand_sources(spec), tmp_path / "web", workers=2)
        local = index_sources(store[1], tmp_path / "local")
        assert distant.hash == local.hash
        buckets = write_buckets(distant, HashLabels(), tmp_path / "b", workers=2, **SMALL)
        assert contents(buckets) == contents(write_buckets(local, HashLabels(), tmp_path / "near", **SMALL))
        rows = write_buckets(distant, HashLabels(), tmp_path / "rows", index_only=True, workers=2, **SMALL)
        with pytest.raises(UserError, match="gives no ranges"):
            contents(Manifest.load(rows.directory))
        with pytest.raises(UserError, match=r"6 of 10 .*00004\.tar cannot be read"):
            index_sources(expand_sources(spec.replace("00003", "00009")), tmp_path / "more")
    finally:
        server.shutdown()
        server.server_close()
