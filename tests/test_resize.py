"""Pictures made smaller at bucketing: which, into what, and the same bytes whoever writes them."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from mcl_clip.errors import UserError
from mcl_clip.loading.decode import decode_rgb
from mcl_clip.shards.buckets import write_buckets
from mcl_clip.shards.index import index_sources
from mcl_clip.shards.manifest import Manifest
from mcl_clip.shards.pictures import line, total
from mcl_clip.shards.resize import RESIZED, Resize
from mcl_clip.shards.verify import verify
from tests.distributed import run_ranks, world_of
from tests.tars import image_bytes, write_shards, write_tar
from tests.test_buckets import SMALL, HashLabels, Killed, contents, expected

RESIZE = Resize(16)


def picture(width, height, mode="RGB"):
    coarse = Image.open(io.BytesIO(image_bytes(width, height, extension="png")))
    return coarse.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def opened(data):
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(("size", "wanted"), [((40, 30), (21, 16)), ((30, 40), (16, 21)), ((17, 400), (16, 376))])
def test_the_twin_decodes_all_and_encodes_once(kind, size, wanted):
    data = encoded(picture(*size), kind)
    small, what = RESIZE(data)
    assert (what, opened(small).size, opened(small).format) == (RESIZED, wanted, kind)
    assert small == encoded(opened(data).convert("RGB").resize(wanted, Image.Resampling.BICUBIC), kind, quality=90)


def test_a_large_jpeg_is_decoded_to_twice_the_size_that_is_needed():
    data = encoded(picture(640, 480), "JPEG", quality=95)
    small, what = Resize(48, 100)(data)
    twin = opened(data).resize((64, 48), Image.Resampling.BICUBIC)
    assert what == RESIZED and np.abs(np.asarray(opened(small), int) - np.asarray(twin, int)).mean() < 2
    assert len(Resize(48, 30)(data)[0]) < len(small) / 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_stored_pixels_keep_their_orientation_and_profile_and_nothing_else(kind):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a long description " * 99
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encoded(picture(40, 30), kind, exif=exif, icc_profile=profile, quality=90)
    small = opened(RESIZE(data)[0])
    assert small.size == (21, 16), "as it is stored, not as it is shown"
    assert dict(small.getexif()) == {0x0112: 6} and small.info["icc_profile"] == profile


@pytest.mark.parametrize("mode", ["L", "CMYK", "P"])
def test_other_colours_are_those_that_the_loader_makes_of_them(mode):
    data = encoded(picture(40, 30, mode), "PNG" if mode == "P" else "JPEG", icc_profile=b"of four colours")
    small, what = RESIZE(data)
    pixels, is_fast = decode_rgb(small)
    twin = decode_rgb(data)[0].permute(1, 2, 0).numpy()
    twin = np.asarray(Image.fromarray(twin).resize((21, 16), Image.Resampling.BICUBIC), int)
    assert what == RESIZED and is_fast
    assert np.abs(pixels.permute(1, 2, 0).numpy().astype(int) - twin).mean() < 6
    assert opened(small).mode == ("L" if mode == "L" else "RGB")
    assert ("icc_profile" in opened(small).info) == (mode != "CMYK")


def test_what_is_small_odd_or_broken_keeps_its_bytes():
    jpeg, several = encoded(picture(40, 30), "JPEG"), [picture(40, 30), picture(40, 31).resize((40, 30))]
    see_through = picture(40, 30)
    see_through.putalpha(99)
    bomb = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", 1 << 20, 1 << 20, 8, 2, 0, 0, 0))
    kept = {
        "small enough": [encoded(picture(99, 16), "JPEG"), encoded(picture(8, 8), "PNG")],
        "animated": [encoded(several[0], kind, save_all=True, append_images=several[1:]) for kind in ("WEBP", "PNG")],
        "with transparency": [
            *(encoded(see_through, kind) for kind in ("PNG", "WEBP")),
            encoded(picture(40, 30), "PNG", transparency=(1, 2, 3)),
        ],
        "of other than 8-bit colours": [encoded(Image.new("I;16", (40, 30)), "PNG")],
        "unreadable": [b"", b"not an image", jpeg[:-300], encoded(picture(40, 30), "GIF"), bomb],
    }
    for what, files in kept.items():
        for data in files:
            assert RESIZE(data) == (data, what)


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_a_camera_s_second_view_goes_and_the_first_is_resized():
    data = encoded(picture(40, 30), "MPO", save_all=True, append_images=[picture(40, 31)])
    small, what = RESIZE(data)
    assert (what, opened(small).format, opened(small).size) == (RESIZED, "JPEG", (21, 16))


@pytest.mark.parametrize(("side", "quality", "flag"), [(0, 90, "--mcl-resize 0"), (8, 101, "--mcl-resize-quality 101")])
def test_sizes_that_cannot_be_are_refused(side, quality, flag):
    with pytest.raises(UserError, match=flag):
        Resize(side, quality)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    large = write_shards(folder / "large", 3, 12, size=40, with_json=True, broken_image=[(1, 3)], no_image=[(2, 0)])
    small = write_shards(folder / "small", 2, 12, size=12)
    return index_sources(large + small, folder / "index")


def resized(found):
    """The twin: every picture of `contents` by itself."""
    return {
        label: [(shard, key, RESIZE(image)[0], caption) for shard, key, image, caption in samples]
        for label, samples in found.items()
    }


def test_buckets_hold_the_smaller_pictures_and_say_so(source, tmp_path, caplog):
    caplog.set_level("INFO")
    buckets = write_buckets(source, HashLabels(), tmp_path / "b", resize=RESIZE, **SMALL)
    assert contents(buckets) == resized(expected(source, HashLabels())) and verify(buckets.directory) == []
    pictures = buckets.made_from["pictures"]
    images = [sample[2] for samples in expected(source, HashLabels()).values() for sample in samples]
    became = [RESIZE(image) for image in images]
    assert buckets.made_from["resize"] == {"side": 16, "quality": 90} and set(pictures) == {what for _, what in became}
    for what, told in pictures.items():
        these = [place for place, (_, found) in enumerate(became) if found == what]
        assert told == {
            "count": len(these),
            "bytes_before": sum(len(images[place]) for place in these),
            "bytes_after": sum(len(became[place][0]) for place in these),
        }
    assert pictures["unreadable"]["count"] == 1 and line(pictures) in caplog.text
    again = write_buckets(buckets, HashLabels(2), tmp_path / "2", resize=RESIZE, **SMALL)
    assert again.hash == write_buckets(source, HashLabels(2), tmp_path / "3", resize=RESIZE, **SMALL).hash


def test_the_line_tells_resized_and_copied_apart():
    parts = [
        {RESIZED: {"count": 1000, "bytes_before": 3 << 20, "bytes_after": 1 << 20}},
        {"small enough": {"count": 2, "bytes_before": 9, "bytes_after": 9}},
        {RESIZED: {"count": 1, "bytes_before": 1 << 20, "bytes_after": 1 << 19}},
    ]
    wanted = "1,001 pictures resized, 4.0 MiB -> 1.5 MiB; 2 copied (2 small enough)"
    assert line(total(parts)) == wanted and list(total(parts)) == [RESIZED, "small enough"]
    assert line(total(parts[:1])) == "1,000 pictures resized, 3.0 MiB -> 1.0 MiB; 0 copied"


def test_buckets_of_other_sizes_are_refused(source, tmp_path):
    plain, small = tmp_path / "plain", tmp_path / "small"
    write_buckets(source, HashLabels(), plain, **SMALL)
    write_buckets(source, HashLabels(), small, resize=RESIZE, **SMALL)
    for target, other in ((plain, RESIZE), (small, None), (small, Resize(16, 80)), (small, Resize(17))):
        with pytest.raises(UserError, match="was made from another resize"):
            write_buckets(source, HashLabels(), target, resize=other, **SMALL)
    with pytest.raises(UserError, match="--mcl-index-only"):
        write_buckets(source, HashLabels(), tmp_path / "rows", resize=RESIZE, index_only=True)


def _bucket_rank(rank, world_size, source, target):
    world = world_of(rank, world_size)
    return write_buckets(Manifest.load(source), HashLabels(), target, world=world, resize=RESIZE, **SMALL).hash


def test_ranks_workers_and_interruptions_give_the_same_bytes(source, tmp_path, monkeypatch):
    alone = write_buckets(source, HashLabels(), tmp_path / "alone", resize=RESIZE, **SMALL)
    assert run_ranks(_bucket_rank, 2, str(source.directory), str(tmp_path / "ranks")) == [alone.hash] * 2
    write_buckets(source, HashLabels(), tmp_path / "workers", resize=RESIZE, workers=2, **SMALL)
    replace, left = os.replace, [9]

    def killed(*paths):
        if not left[0]:
            raise Killed
        left[0] -= 1
        replace(*paths)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(Killed):
        write_buckets(source, HashLabels(), tmp_path / "killed", resize=RESIZE, **SMALL)
    monkeypatch.undo()
    with pytest.raises(UserError, match="unfinished buckets of another resize"):
        write_buckets(source, HashLabels(), tmp_path / "killed", **SMALL)
    write_buckets(source, HashLabels(), tmp_path / "killed", resize=RESIZE, **SMALL)
    for name in ("ranks", "workers", "killed"):
        assert _files(tmp_path / name) == _files(tmp_path / "alone")


def _files(directory):
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_sample_damaged_since_the_index_is_not_sealed_into_the_buckets(tmp_path):
    files = [("a.jpg", image_bytes(1, size=40)), ("a.txt", b"a"), ("b.jpg", image_bytes(2, size=40)), ("b.txt", b"b")]
    path = write_tar(tmp_path / "0.tar", files)
    source = index_sources([path], tmp_path / "index")
    with open(path, "r+b") as file:
        file.seek(512 + len(files[0][1]) - 40)
        file.write(b"\x01\x02\x03\x04")

    class One(HashLabels):
        def label(self, shard, key):
            return "0"

    buckets = write_buckets(source, One(), tmp_path / "b", resize=RESIZE)
    assert [entry["count"] for entry in buckets.made_from["pictures"].values()] == [1, 1]
    assert [
        problem for problem in verify(buckets.directory) if "'000000_a'" in problem and "payload changed" in problem
    ]
