"""The emoji study's data, from tiny packages made here: no network."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.emoji.artist_sets import split
from benchmarks.emoji.attributes import attributes_of
from benchmarks.emoji.data import generate, shard_paths, unseen_captions
from benchmarks.emoji.differences import differences
from benchmarks.emoji.drawings import svg_of
from benchmarks.emoji.names import Character, Icons, match, plain_code, read_characters, spelling
from benchmarks.emoji.packages import fetch, read_members
from benchmarks.emoji.pairs import visible_pixels
from benchmarks.emoji.shards import Sample, in_memory, pixels_of, read_shards, write_shards
from benchmarks.study.groups import is_apart
from eval.data.classification import open_set
from eval.data.mmvp import read_pairs
from mcl_clip.errors import UserError
from tests.emoji_packages import TONES, pack, packages, png, world


def character(name, code="1", group="people-body", order=0):
    return Character(order, code, name, "x", group, "sub", ())


def names_of(*names, group="people-body"):
    characters = [character(name, str(place), group, place) for place, name in enumerate(names)]
    return characters, {each.name: attributes_of(each) for each in characters}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("emoji")
    drawn, names = packages(root / "npm")
    arguments = {"packages": drawn, "names": names, "processes": 1}
    generate(root / "data", root / "npm", **arguments)
    return SimpleNamespace(root=root, data=root / "data", arguments=arguments)


def samples_of(made, package, kind):
    return read_shards(shard_paths(made.data, [package], kind))


def test_every_named_drawing_is_in_one_shard_of_its_kind(made):
    rows, _ = world()
    for package in ("twemoji", "noto"):
        train, unseen = (samples_of(made, package, kind) for kind in ("train", "unseen"))
        captions = [each.caption for each in (*train, *unseen)]
        assert sorted(captions) == sorted(row["annotation"] for row in rows)
        assert 0 < len(unseen) < 40 and all("skin tone" in each.caption for each in unseen)
    assert {each.caption for each in samples_of(made, "twemoji", "unseen")} == {
        each.caption for each in samples_of(made, "noto", "unseen")
    }
    manifest = json.loads((made.data / "shards/twemoji/manifest.json").read_text())
    assert manifest["counts"]["without a name"] == 2


def test_pictures_are_as_drawn_and_say_whose_they_are(made):
    (square,) = (each for each in samples_of(made, "noto", "train") if each.caption == "left square")
    pixels = pixels_of(square.png)
    assert pixels.shape == (32, 32, 3) and pixels[:, :15].max() < 5 and pixels[:, 17:].min() > 250
    assert square.about["source"] == "npm:@iconify-json/noto@1.0.0/left-square"
    assert square.about["licence"] == "MIT" and square.about["artist"] == "noto"


def test_pairs_differ_in_one_thing_and_read_as_mmvp(made):
    pairs = read_pairs(made.data / "artists/twemoji/pairs")
    colors = [pair for pair in pairs if pair.type == "Color"]
    assert len(colors) == 10
    tones = [pair for pair in pairs if pair.type == "Skin tone"]
    assert len(tones) == 6 * 20
    for pair in pairs:
        first, second = (pixels_of(path.read_bytes()) for path in pair.images)
        assert not np.array_equal(first, second)
        assert pair.statements[0].split(":")[0] == pair.statements[1].split(":")[0] or pair.type == "Color"


def test_zero_shot_splits_read_as_clip_benchmarks(made):
    root = made.data / "artists/noto/zero_shot"
    known, unseen = (open_set(str(root), split) for split in ("known", "unseen"))
    assert known.size == len(samples_of(made, "noto", "train"))
    assert unseen.size == len(samples_of(made, "noto", "unseen"))
    assert known.templates == ("{}",)
    sample = next(iter(known.samples()))
    assert known.classnames[sample.label] in {row["annotation"] for row in world()[0]}


def test_what_stands_is_reused_and_what_is_damaged_drawn_again(made):
    manifests = sorted((made.data).rglob("manifest.json"))
    before = {path: path.stat().st_mtime_ns for path in manifests}
    generate(made.data, made.root / "npm", **made.arguments)
    assert {path: path.stat().st_mtime_ns for path in manifests} == before
    damaged = shard_paths(made.data, ["noto"])[0]
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1])
    generate(made.data, made.root / "npm", **made.arguments)
    assert damaged.read_bytes() == whole


def test_captions_that_others_do_not_draw_are_left_out():
    samples = [Sample(b"", caption, {}) for caption in "abc"]
    sets = split(samples, samples[:1], {"a", "c", "z"})
    assert [each.caption for each in sets.known] == ["a", "c"]
    assert len(sets.unseen) == 1 and sets.alone == 1


def test_fetch_refuses_other_bytes_and_says_what_to_do_without_npm(tmp_path, monkeypatch):
    package = pack(tmp_path, "@iconify-json/noto", {"icons.json": "{}"})
    assert read_members(fetch(package, tmp_path), ["icons.json"]) == [b"{}"]
    with pytest.raises(UserError, match="cannot be read"):
        read_members(fetch(package, tmp_path), ["chars.json"])
    (tmp_path / package.tarball).write_bytes(b"other")
    with pytest.raises(UserError, match="not the pinned"):
        fetch(package, tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"npm is needed .*npm pack @iconify-json/noto@1.0.0"):
        fetch(package, tmp_path / "empty")
    assert not list((tmp_path / "empty").iterdir())


def test_an_icon_is_known_by_code_by_name_and_by_what_others_call_it():
    characters = [character("person: beard", "a", order=0), character("bullseye", "b", order=1)]
    coded = Icons("x", {"icons": {"one": {}, "two": {"hidden": True}}, "aliases": {"target": {"parent": "two"}}}, {})
    coded = Icons(
        "x", coded.data | {"icons": {"one": {}, "two": {}, "old": {"hidden": True}}}, {"one": "a", "two": "b"}
    )
    flipped = {"aliases": {"mirrored": {"parent": "target", "hFlip": True}}}
    plain = Icons("y", {"icons": {"person-beard": {}, "target": {}, "two": {}, "mirrored": {}}, **flipped}, {})
    found = match([coded, plain], characters)
    assert {icon: each.name for icon, each in found["x"].items()} == {"one": "person: beard", "two": "bullseye"}
    assert {icon: each.name for icon, each in found["y"].items()} == {
        "person-beard": "person: beard",
        "target": "bullseye",
        "two": "bullseye",
    }


def test_spellings():
    assert spelling("woman: dark skin tone, red hair") == "woman-dark-skin-tone-red-hair"
    assert spelling("one o’clock") == "one-oclock"
    assert spelling("flag-for-flag-chad") == spelling("flag: Chad") == "flag-chad"
    assert plain_code("1F3F3-FE0F-200D-0023") == "1f3f3-200d-23"
    rows = "emoji,hexcode,group,subgroups,annotation,tags,openmoji_tags,order\nx,41,component,s,tone,,,1\n"
    assert read_characters(rows.encode()) == []


def test_attributes_say_what_the_name_says():
    found = attributes_of(character("woman walking: dark skin tone, facing right"))
    assert (found.head, found.gender, found.skin_tone, found.facing, found.hair) == (
        "woman walking",
        "woman",
        "dark",
        "right",
        None,
    )
    both = attributes_of(character("woman and man holding hands: light skin tone, dark skin tone"))
    assert (both.gender, both.skin_tone) == (None, "light/dark")
    assert attributes_of(character("man’s shoe", group="objects")).gender is None
    assert attributes_of(character("man: bald")).hair == "bald"


def test_differences_are_in_one_thing():
    found = differences(
        *names_of(
            "man",
            "woman",
            "man: light skin tone",
            "woman: light skin tone",
            "man: medium-light skin tone",
            "man: medium skin tone",
            "man: light skin tone, bald",
            "man: light skin tone, red hair",
            "man running",
            "man running: facing right",
            "family: man, boy",
            "family: man, boy, boy",
            "family: man, girl",
            "man dancing",
            "woman dancing",
        )
    )
    assert found["Gender"] == [
        ("man", "woman"),
        ("man: light skin tone", "woman: light skin tone"),
        ("family: man, boy", "family: man, girl"),
    ]
    assert found["Skin tone"] == [("man: light skin tone", "man: medium skin tone")]
    assert found["Hair"] == [("man: light skin tone, bald", "man: light skin tone, red hair")]
    assert found["Direction"] == [("man running", "man running: facing right")]
    assert found["Count"] == [("family: man, boy", "family: man, boy, boy")]
    things = differences(
        *names_of(
            "light blue heart", "red heart", "two hearts", "left arrow", "up arrow", "one o’clock", group="symbols"
        )
    )
    assert things["Color"] == [("light blue heart", "red heart")]
    assert things["Direction"] == [("left arrow", "up arrow")]
    assert things["Count"] == [("red heart", "two hearts")]
    clocks = differences(*names_of("one o’clock", "two o’clock", "ten o’clock", "one-thirty", group="symbols"))
    assert clocks["Clock time"] == [("one o’clock", "ten o’clock"), ("two o’clock", "ten o’clock")]


def test_visible_pixels_counts_at_32_pixels():
    white = np.full((64, 64, 3), 255, np.uint8)
    dot = white.copy()
    dot[:8, :4] = 0  # 4 x 2 pixels of the small picture
    faint = white.copy()
    faint[:8, :4] = 240
    assert visible_pixels(png(white), png(dot)) == 8
    assert visible_pixels(png(white), png(faint)) == 0


def test_icons_that_refer_to_files_are_not_drawn_and_narrow_ones_stand_in_the_middle():
    def svg(text, **size):
        return svg_of(Icons("x", {"width": 16, "height": 16, "icons": {"i": {"body": text} | size}}, {}), "i")

    for outside in (
        '<image href="/a.png"/>',
        "<image xlink:href='file:///a'/>",
        '<g fill="url(http://a)"/>',
        "<!ENTITY>",
    ):
        assert svg(outside) is None
    assert 'viewBox="0.0 0.0 16 16"' in svg('<use href="#a"/><g fill="url(#b)"/>')
    assert 'viewBox="-4.0 0.0 16 16"' in svg("<g/>", width=8)


def test_groups_are_set_apart_whole_by_seed_alone():
    names = [f"caption {number}" for number in range(4000)]
    apart = [is_apart(name, 0.125, 7, 1) for name in names]
    assert apart == [is_apart(name, 0.125, 7, 1) for name in names]
    assert 0.1 < np.mean(apart) < 0.15
    assert apart != [is_apart(name, 0.125, 8, 1) for name in names]
    assert not any(is_apart(name, 0.0, 7) for name in names) and all(is_apart(name, 1.0, 7) for name in names)


def test_only_combinations_with_a_skin_tone_are_kept_unseen():
    characters, attributes = names_of(
        *(f"role{n}: {tone} skin tone" for n in range(40) for tone in TONES), "role1", "wave"
    )
    found = unseen_captions(characters, attributes, 0)
    assert 10 < len(found) < 45 and all("skin tone" in name for name in found)
    assert not unseen_captions(*names_of("a: light skin tone", "a: dark skin tone"), 0)


def test_shards_come_back_as_written(tmp_path):
    pixels = np.arange(3 * 4 * 4, dtype=np.uint8).reshape(4, 4, 3)
    written = [Sample(png(pixels), f"Ω {place}", {"package": "p"}) for place in range(1001)]
    assert write_shards(tmp_path, written) == 2
    read = in_memory(read_shards([tmp_path / "00000.tar", tmp_path / "00001.tar"]))
    assert read.captions == [each.caption for each in written]
    assert np.array_equal(read.images[1000], pixels) and read.about[1000]["key"] == "000010000"
