"""URLs in rows of a data set: what is behind them is read up to a limit, and nothing of this machine."""

import http.server
import os
import threading
import zipfile

import pytest

from mcl_clip.packing import images
from mcl_clip.packing.rows import Skip
from mcl_clip.packing.urls import read_url
from tests.servers import web


def test_files_and_files_in_zips_are_read(tmp_path):
    data = os.urandom(300_000)
    (tmp_path / "a b.bin").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("in/a.bin", data)
    for ranges in (True, False):
        with web(tmp_path, ranges) as (url, _):
            assert read_url(f"{url}/a b.bin") == data
            if ranges:
                assert read_url(f"zip://in/a.bin::{url}/z.zip") == data


@pytest.mark.parametrize(
    "url",
    [
        "file:///dev/zero", "file://{here}/a.jpg", "local://{here}/fifo", "zip://a.jpg::{here}/z.zip",
        "zip://a.jpg::file://{here}/z.zip", "http://127.0.0.1:1/a::file://{here}/a.jpg", "sftp://127.0.0.1/a.jpg",
        "simplecache::https://127.0.0.1:1/a.jpg", "memory://a.jpg", "{here}/a://b",
    ],
)  # fmt: skip
def test_nothing_of_this_machine_is_read(tmp_path, url):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "a.jpg").write_bytes(b"secret")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("a.jpg", b"secret")
    with pytest.raises(Skip, match="another kind than http, https and hf"):
        read_url(url.format(here=tmp_path))


def test_what_cannot_be_had_is_skipped(tmp_path):
    with web(tmp_path) as (url, _), pytest.raises(Skip, match="cannot be read"):
        read_url(f"{url}/gone.jpg")


class Endless(http.server.BaseHTTPRequestHandler):
    """Sends zeros until nobody listens, as a part too when one is asked for."""

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.send_response(200)
        self.end_headers()

    def do_GET(self):
        self.send_response(206 if "Range" in self.headers else 200)
        self.end_headers()
        try:
            while True:
                self.wfile.write(bytes(1 << 16))
        except OSError:
            pass


def test_no_more_is_read_than_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", 1000)
    for size in (1000, 1001):
        (tmp_path / str(size)).write_bytes(bytes(size))
    with zipfile.ZipFile(tmp_path / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", bytes(1 << 20))
    with web(tmp_path) as (url, _):
        assert read_url(f"{url}/1000") == bytes(1000)
        for name in (f"{url}/1001", f"zip://bomb::{url}/z.zip"):
            with pytest.raises(Skip, match="larger than"):
                read_url(name)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(Skip, match="larger than"):
            read_url(f"http://127.0.0.1:{server.server_port}/x.jpg")
    finally:
        server.shutdown()
        server.server_close()
