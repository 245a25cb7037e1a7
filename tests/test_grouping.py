"""Which members make up a sample: WebDataset's rule, and names with dots in them."""

import itertools
import tarfile
from pathlib import Path

import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from mcl_clip.errors import UserError
from mcl_clip.shards.buckets import write_buckets
from mcl_clip.shards.grouping import samples
from mcl_clip.shards.index import index_sources
from mcl_clip.shards.tar import TarError
from mcl_clip.shards.verify import verify
from tests.tars import image_bytes, write_shards, write_tar
from tests.test_buckets import HashLabels
from tests.test_tar import archive


def found(names, caption="txt"):
    """{key: extensions} of members with these names."""
    data = archive([(name, name.encode()) for name in names], tarfile.PAX_FORMAT)
    return {sample.key: sample.extensions for sample in samples(data, caption)}


def test_dots_in_names_end_at_the_last_one_where_image_and_caption_agree():
    names = [
        f"IMG_{n:03d} v2.{part} (final).{end}" for n in range(2) for part in (0, 1) for end in ("JPG", "txt", "json")
    ]
    assert found(names) == {
        f"IMG_{n:03d} v2.{part} (final)": ["jpg", "txt", "json"] for n in range(2) for part in (0, 1)
    }
    assert found(["2024.01.05/a.jpg", "2024.01.05/a.txt"]) == {"2024.01.05/a": ["jpg", "txt"]}
    dates = [f"2024.01.{day:02d}.{end}" for day in range(3) for end in ("png", "txt")]
    assert found(dates) == {f"2024.01.{day:02d}": ["png", "txt"] for day in range(3)}


def test_extensions_of_several_dots_stay_with_their_sample():
    assert found(["a.jpg", "a.seg.png", "a.txt"]) == {"a": ["jpg", "seg.png", "txt"]}
    assert found(["a.jpg", "a.seg.png", "a.en.txt", "a.txt"]) == {"a": ["jpg", "seg.png", "en.txt", "txt"]}
    assert found(["a.left.jpg", "a.right.jpg", "a.txt"]) == {"a": ["left.jpg", "right.jpg", "txt"]}
    assert found(["b 1.5.jpg", "b 1.5.seg.png", "b 1.5.txt"]) == {"b 1.5": ["jpg", "seg.png", "txt"]}
    # Copies beside the original, as downloads are numbered.
    assert found(["p.jpg", "p.txt", "p.1.jpg", "p.1.txt"]) == {"p": ["jpg", "txt"], "p.1": ["jpg", "txt"]}
    # Several views in any order: the sample is whole by its first dot.
    views = ["v.0.jpg", "v.1.jpg", "v.0.txt", "v.1.txt", "v.jpg", "v.txt"]
    assert found(views) == {"v": ["0.jpg", "1.jpg", "0.txt", "1.txt", "jpg", "txt"]}
    with pytest.raises(TarError, match="not adjacent"):
        found(views[:4])


def test_captions_in_json_agree_by_their_json():
    names = ["x.1.jpg", "x.1.json", "x.2.jpg", "x.2.json"]
    assert found(names, "json") == {"x.1": ["jpg", "json"], "x.2": ["jpg", "json"]}
    assert list(found(names)) == ["x"]


def test_one_without_a_caption_among_names_with_dots_is_one_lost():
    names = ["2024.1.jpg", "2024.1.txt", "2024.2.jpg", "2024.3.jpg", "2024.3.txt"]
    assert found(names) == {"2024.1": ["jpg", "txt"], "2024.2": ["jpg"], "2024.3": ["jpg", "txt"]}


def test_hidden_files_of_macos_belong_to_no_sample():
    names = [
        f"{folder}{base}"
        for folder in ("", "./", "d/")
        for base in ("._a.jpg", "a.jpg", ".DS_Store", "._a.txt", "a.txt")
    ]
    assert found(names) == {"a": ["jpg", "txt"], "./a": ["jpg", "txt"], "d/a": ["jpg", "txt"]}


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["jpg", "txt", "json", "seg.png", "0.jpg"])), unique=True
    )
)
def test_without_agreeing_names_the_samples_are_those_of_webdataset(members):
    names = [f"{key}.{extension}" for key, extension in sorted(members)]
    expected = {}
    for key, group in itertools.groupby(names, lambda name: webdataset.tariterators.base_plus_ext(name)[0]):
        expected[key] = [webdataset.tariterators.base_plus_ext(name)[1] for name in group]
    assert found(names) == expected


def test_names_with_dots_are_indexed_bucketed_and_verified(tmp_path):
    files = []
    for n in range(12):
        key = f"IMG_{n:03d} v2.{n % 3} (final)"
        files += [(f"{key}.jpg", image_bytes(n)), (f"{key}.txt", f"caption {n}".encode()), (f"{key}.seg.png", b"mask")]
    source = index_sources([write_tar(tmp_path / "0.tar", files)], tmp_path / "index")
    assert (source.num_samples, source.num_failed, source.left_out) == (12, 0, {})
    rows = source.open_shard(0)
    assert [rows.read_caption(row) for row in range(12)] == [f"caption {n}" for n in range(12)]
    buckets = write_buckets(source, HashLabels(), tmp_path / "b", shard_size=5)
    assert verify(source.directory) == verify(buckets.directory) == []
    found = {
        sample["__key__"]: sample
        for path in buckets.tars.paths
        for sample in webdataset.WebDataset(path, shardshuffle=False)
    }
    assert all(sample["seg.png"] == b"mask" and sample["jpg"] for sample in found.values())
    assert len(found) == buckets.num_samples


def test_what_an_index_leaves_out_is_counted_with_reasons_and_first_keys(tmp_path, caplog):
    words = [
        ("a", "jpg", b"a cup"),
        ("b", "jpg", b""),
        ("c", "jpg", b" \n"),
        ("d", "jpg", None),
        ("e", "bmp", b"a bmp"),
    ]
    files = [("readme", b"no extension")]
    for key, kind, caption in words:
        files.append((f"{key}.{kind}", image_bytes(1)))
        files += [(f"{key}.txt", caption)] if caption is not None else []
    files += [("f.txt", b"alone"), ("g.jpg", b""), ("g.txt", b"an empty image")]
    lost = write_tar(tmp_path / "lost.tar", [("h.jpg", image_bytes(2))])
    paths = [write_tar(tmp_path / "a.tar", files), lost]
    manifest = index_sources(paths, tmp_path / "index")
    assert (manifest.num_samples, manifest.num_failed) == (1, 7)
    assert manifest.left_out == {
        "with a blank caption": {"count": 2, "first": ["a/b", "a/c"]},
        "without a caption": {"count": 2, "first": ["a/d", "lost/h"]},
        "with files of other types than .jpg, .png, .jpeg, .webp": {"count": 1, "first": ["a/e"]},
        "without an image": {"count": 1, "first": ["a/f"]},
        "with an empty image": {"count": 1, "first": ["a/g"]},
        "files without an extension": {"count": 1, "first": ["a/readme"]},
        "shards without a usable sample": {"count": 1, "first": ["lost"]},
    }
    (told,) = caplog.messages
    assert "2 with a blank caption (a/b, a/c)" in told and "1 samples" in told and "\n" not in told
    caplog.clear()
    index_sources(paths, tmp_path / "index")
    assert caplog.messages == [told]
    with pytest.raises(UserError, match="no sample"):
        index_sources([lost], tmp_path / "other")


def test_broken_tars_are_all_listed_and_can_be_left_out(tmp_path, caplog):
    paths = write_shards(tmp_path / "data", 6, 4)
    for path in paths[:4]:
        Path(path).write_bytes(Path(path).read_bytes()[:3000])
    Path(paths[3]).write_bytes(b"")
    with pytest.raises(UserError, match=r"4 of 6 tars.*broken\.jsonl.*--mcl-skip-broken"):
        index_sources(paths, tmp_path / "index")
    listed = (tmp_path / "index/broken.jsonl").read_text().splitlines()
    assert len(listed) == 4 and all(
        path in line and "truncated" in line for path, line in zip(paths, listed, strict=False)
    )
    manifest = index_sources(paths, tmp_path / "index", skip_broken=True)
    assert manifest.shard_size.tolist() == [0, 0, 0, 0, 4, 4]
    assert manifest.left_out == {"broken tars": {"count": 4, "first": ["00000", "00001", "00002", "00003"]}}
    assert "4 broken tars" in caplog.messages[-1]
    assert verify(manifest.directory) == []
    buckets = write_buckets(manifest, HashLabels(), tmp_path / "b", shard_size=3)
    assert buckets.num_samples + sum(entry["count"] for entry in buckets.left_out.values()) == 8
