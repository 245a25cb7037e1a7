"""Packing: rows of a source as tars, in the face of other workers, interruptions and bad rows."""

import hashlib
import json
import os
import signal
import tarfile
from pathlib import Path

import pandas
import pyarrow.parquet as pq
import pytest

from mcl_clip.errors import UserError
from mcl_clip.packing.job import pack
from mcl_clip.packing.open import Wanted, open_source
from mcl_clip.packing.writer import SCHEMA, sample_key
from mcl_clip.shards.index import index_sources
from mcl_clip.shards.sources import expand_sources
from tests.tars import image_bytes, read_samples

COMMA = Wanted(separator=",")


def write_table(folder: Path, count: int) -> Path:
    """`count` images and a CSV that names them."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(count):
        extension = ("jpg", "png", "webp")[number % 3]
        (folder / "images" / f"{number}.{extension}").write_bytes(image_bytes(number, extension=extension, size=16))
        rows.append((f"images/{number}.{extension}", f'caption "{number}", it says\nhere'))
    table = folder / "table.csv"
    pandas.DataFrame(rows, columns=["filepath", "title"]).to_csv(table, index=False)
    return table


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_packed_table_is_what_img2dataset_writes(tmp_path):
    table = write_table(tmp_path / "data", 7)
    packed = pack(open_source(str(table), COMMA), tmp_path / "out", shard_size=3, hash_name="sha256")
    assert (packed.samples, packed.shards, packed.skipped) == (7, 3, {})
    names = ["00000", "00001", "00002"]
    assert sorted(contents(tmp_path / "out")) == sorted(
        [*(f"{name}{end}" for name in names for end in (".tar", ".parquet", "_stats.json")), "pack.json"]
    )
    found = read_samples(tmp_path / "out" / f"{name}.tar" for name in names)
    for number in range(7):
        extension, key = ("jpg", "png", "webp")[number % 3], f"{number // 3:05d}{number % 3}"
        members = found[names[number // 3], key]
        image = image_bytes(number, extension=extension, size=16)
        caption = f'caption "{number}", it says\nhere'
        assert list(members) == [extension, "json", "txt"]
        assert members[extension] == image and members["txt"].decode() == caption
        record = {
            "url": f"images/{number}.{extension}",
            "caption": caption,
            "key": key,
            "status": "success",
            "error_message": None,
            "width": 16,
            "height": 16,
            "original_width": 16,
            "original_height": 16,
            "sha256": hashlib.sha256(image).hexdigest(),
        }
        assert json.loads(members["json"]) == record
        row = pq.read_table(tmp_path / "out" / f"{names[number // 3]}.parquet").to_pylist()[number % 3]
        assert row == record | {"captions": None}
    stats = json.loads((tmp_path / "out" / "00002_stats.json").read_text())
    assert {name: stats[name] for name in ("count", "successes", "failed_to_download", "failed_to_resize")} == {
        "count": 1,
        "successes": 1,
        "failed_to_download": 0,
        "failed_to_resize": 0,
    }
    assert stats["status_dict"] == {"success": 1}
    manifest = index_sources(expand_sources(str(tmp_path / "out")), tmp_path / "index")
    assert (manifest.num_samples, manifest.num_failed) == (7, 0)
    assert manifest.open_shard(0).read_caption(1) == 'caption "1", it says\nhere'


def test_workers_and_ranks_change_nothing(tmp_path):
    table = write_table(tmp_path / "data", 11)
    source = open_source(str(table), COMMA)
    pack(source, tmp_path / "one", shard_size=2)
    pack(source, tmp_path / "two", shard_size=2, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.parametrize("moment", [3, 5, 8, 12, 17])
def test_a_killed_run_goes_on_and_gives_the_same_bytes(tmp_path, moment):
    table = write_table(tmp_path / "data", 8)
    pack(open_source(str(table), COMMA), tmp_path / "whole", shard_size=3)
    child = os.fork()
    if child == 0:  # dies at a renaming
        real, left = os.replace, [moment]

        def replace(*names):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            real(*names)

        os.replace = replace
        pack(open_source(str(table), COMMA), tmp_path / "out", shard_size=3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) == (moment <= 12)
    kept = {name: path.stat().st_ino for name in ("00000.tar",) if (path := tmp_path / "out" / name).exists()}
    finished = (tmp_path / "out" / "00000_stats.json").exists()
    pack(open_source(str(table), COMMA), tmp_path / "out", shard_size=3)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not finished or kept["00000.tar"] == (tmp_path / "out" / "00000.tar").stat().st_ino


def test_skipped_rows_are_counted_with_reason_and_examples(tmp_path):
    table = write_table(tmp_path / "data", 6)
    images = tmp_path / "data" / "images"
    (images / "0.jpg").unlink()
    (images / "3.jpg").write_bytes(b"GIF, it says")
    os.mkfifo(images / "pipe.jpg")
    extra = ['"images/1.png"," "', "images/pipe.jpg,x", "https://host/a.jpg,x", "images,x", "images/1.png", ",x"]
    with open(table, "a") as file:
        file.write("\n".join(extra) + "\n")
    packed = pack(open_source(str(table), COMMA), tmp_path / "out", shard_size=4)
    assert packed.samples == 4
    assert packed.skipped == {
        "not a file": 2,
        "no such file": 1,
        "not an image (JPEG, PNG, WebP, GIF, BMP, TIFF or PPM)": 1,
        "no caption": 1,
        "a URL; img2dataset fetches those and writes tars": 1,
        "the row has fewer columns than the header": 1,
        "no image is given": 1,
    }
    assert packed.examples["not a file"] == ["images/pipe.jpg", "images"]
    assert "8 rows skipped: 2 not a file (images/pipe.jpg, images); " in str(packed)
    stats = [json.loads((tmp_path / "out" / f"{shard:05d}_stats.json").read_text()) for shard in range(3)]
    assert [stat["count"] for stat in stats] == [4, 4, 4]
    assert sum(stat["failed_to_download"] for stat in stats) + sum(stat["failed_to_resize"] for stat in stats) == 8
    again = pack(open_source(str(table), COMMA), tmp_path / "out", shard_size=4)
    assert again == packed


def test_formats_that_readers_do_not_know_become_png_without_loss(tmp_path):
    import numpy as np
    from PIL import Image

    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    for extension in ("bmp", "tif", "ppm", "gif", "pcx"):
        Image.fromarray(pixels).save(tmp_path / f"{extension}.{extension}")
    (tmp_path / "t.tsv").write_text(
        "filepath\ttitle\n" + "".join(f"{x}.{x}\tx\n" for x in ("bmp", "tif", "ppm", "gif", "pcx"))
    )
    packed = pack(open_source(str(tmp_path / "t.tsv"), Wanted()), tmp_path / "out")
    assert packed.skipped == {
        "not an image (JPEG, PNG, WebP, GIF, BMP, TIFF or PPM)": 1
    }  # no decoder beyond these is run
    with tarfile.open(tmp_path / "out" / "00000.tar") as tar:
        images = [tar.extractfile(name) for name in tar.getnames() if name.endswith("png")]
        assert [np.array(Image.open(image)).tolist() for image in images[:3]] == [pixels.tolist()] * 3
        assert len(images) == 4


def test_a_directory_is_never_mixed(tmp_path):
    table = write_table(tmp_path / "data", 4)
    with pytest.raises(UserError, match="is not empty"):
        pack(open_source(str(table), COMMA), tmp_path / "data")
    pack(open_source(str(table), COMMA), tmp_path / "out", shard_size=2)
    with pytest.raises(UserError, match="another --mcl-shard-size"):
        pack(open_source(str(table), COMMA), tmp_path / "out", shard_size=3)
    with open(table, "a") as file:
        file.write("images/0.jpg,one more\n")
    with pytest.raises(UserError, match="the source as it was then"):
        pack(open_source(str(table), COMMA), tmp_path / "out", shard_size=2)


def test_nothing_to_pack_leaves_a_clean_place(tmp_path):
    table = write_table(tmp_path / "data", 3)
    wanted = Wanted(separator=",", image_dir=str(tmp_path))
    with pytest.raises(UserError, match=r"no row gives a sample: .*3 no such file \(images/0.jpg"):
        pack(open_source(str(table), wanted), tmp_path / "out")
    assert pack(open_source(str(table), COMMA), tmp_path / "out").samples == 3


def test_keys_are_numbered_as_img2dataset_does():
    assert [sample_key(2, 7, size) for size in (1, 10, 11, 1000, 10000)] == [
        "000027",
        "000027",
        "0000207",
        "00002007",
        "000020007",
    ]
    assert SCHEMA.names[:4] == ["url", "caption", "captions", "key"]
