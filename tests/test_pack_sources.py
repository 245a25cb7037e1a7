"""What people bring: every kind of source gives the rows that it holds, in order."""

import base64
import csv
import io
import json
from pathlib import Path

import datasets
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mcl_clip.errors import UserError
from mcl_clip.packing import hf_datasets
from mcl_clip.packing.job import pack
from mcl_clip.packing.open import Wanted, open_source
from mcl_clip.packing.rows import image_of
from tests.servers import web
from tests.tars import image_bytes


def rows_of(source, work: Path, size: int = 3):
    """All rows, unit by unit as they are read; what several workers see, in another order, must be equal."""
    work.mkdir(exist_ok=True)
    if not source.parallel:
        return [row for unit in source.units(size, work) for row in source.rows(unit, work)]
    units = list(source.units(size, work))
    assert [unit.shard for unit in units] == list(range(len(units)))
    assert all(0 < unit.rows <= size for unit in units)
    forwards = {unit: list(source.rows(unit, work)) for unit in units}
    assert {unit: list(source.rows(unit, work)) for unit in reversed(units)} == forwards
    assert all(len(rows) == unit.rows for unit, rows in forwards.items())
    if source.total is not None:
        assert source.total == sum(unit.rows for unit in units)
    return [row for unit in units for row in forwards[unit]]


def put_images(folder: Path, names) -> dict[str, bytes]:
    images = {name: image_bytes(place, size=8) for place, name in enumerate(names)}
    for name, data in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return images


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=12)


@given(st.lists(st.tuples(texts.filter(str.strip), texts), min_size=1, max_size=9), st.sampled_from("\t,;|"))
def test_a_csv_is_read_as_pandas_reads_it(tmp_path_factory, rows, separator):
    folder = tmp_path_factory.mktemp("csv")
    frame = pandas.DataFrame(rows, columns=["filepath", "title"]).assign(more=1)
    frame.to_csv(folder / "t.csv", sep=separator, index=False)
    twin = pandas.read_csv(folder / "t.csv", sep=separator, keep_default_na=False, dtype=str)
    found = rows_of(open_source(str(folder / "t.csv"), Wanted(separator=separator)), folder / "work", 2)
    assert [row.name for row in found] == [name.strip() for name in twin["filepath"]]
    assert [row.captions for row in found] == [[text] if text.strip() else [] for text in twin["title"]]


def test_relative_paths_start_at_the_csv_or_image_dir(tmp_path):
    (tmp_path / "t.tsv").write_text("﻿filepath\ttitle\na/b.jpg\tone\n\n/c.jpg\ttwo\n", encoding="utf-8")
    for wanted, base in ((Wanted(separator="\\t"), tmp_path), (Wanted(image_dir="/d"), Path("/d"))):
        found = rows_of(open_source(str(tmp_path / "t.tsv"), wanted), tmp_path / "work")
        assert [row.image for row in found] == [str(base / "a/b.jpg"), "/c.jpg"]


@pytest.fixture
def limit():
    """What a new process has; every reader may raise it."""
    before = csv.field_size_limit(1 << 17)
    yield
    csv.field_size_limit(before)


@pytest.mark.parametrize(
    ("text", "wanted", "reason"),
    [
        ("filepath,title\na,b\n", Wanted(), "add --csv-separator ','"),
        ("filepath\ttitle\na\tb\n", Wanted(separator=","), r"add --csv-separator $'\t'"),
        (
            "url\ttitle\na\tb\n",
            Wanted(),
            "no column 'filepath': its columns are 'url', 'title'; name one with --csv-img",
        ),
        ("filepath\ttitle\na\tb\n", Wanted(separator=", "), "give one character"),
        ("filepath\ttitle\na\tb\n", Wanted(separator='"'), "neither a quote nor a line's end"),
        ("filepath\rtitle\ta\n", Wanted(), "t.csv has no header that can be read (new-line character seen"),
        (f"{'/9j/' * 50_000}\ta caption\n", Wanted(), f"no column 'filepath': its columns are '{'/9j/' * 15}', 'a c"),
        ("", Wanted(), "no column 'filepath'"),
        ('filepath\ttitle\na\t"b\nc\td\n', Wanted(), "is a quote never closed"),
    ],
)
def test_a_csv_that_cannot_be_meant_is_refused(tmp_path, limit, text, wanted, reason):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError) as error:
        rows_of(open_source(str(tmp_path / "t.csv"), wanted), tmp_path / "work")
    assert reason in str(error.value)


def test_json_lines(tmp_path):
    image = image_bytes(1)
    lines = [
        json.dumps({"image": "a.jpg", "text": ["one", "two", " "]}),
        "",
        json.dumps({"image": {"bytes": base64.b64encode(image).decode(), "path": "b"}, "text": "half \ud800"}),
        "[1]",
        "{",
        "[" * 100_000,
        json.dumps({"image": "data:image/jpeg;base64," + base64.b64encode(image).decode(), "text": None}),
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    found = rows_of(open_source(str(tmp_path / "t.jsonl"), Wanted()), tmp_path / "work", 2)
    assert [row.image for row in found] == [str(tmp_path / "a.jpg"), image, None, None, None, image]
    assert [row.captions for row in found] == [["one", "two"], ["half ?"], [], [], [], []]
    assert [row.listed for row in found] == [True, False, False, False, False, False]
    assert [row.fault for row in found[2:5]] == ["the line is not a JSON object, in UTF-8"] * 3


def test_base64_is_told_from_paths():
    data = image_bytes(3)
    assert image_of(base64.b64encode(data).decode(), "/b") == (data, None)
    assert image_of("/9j/short.jpg", "/b") == ("/9j/short.jpg", "/9j/short.jpg")
    assert image_of({"bytes": None, "path": "x/y.png"}, "/b") == ("/b/x/y.png", "x/y.png")
    assert image_of(" ", "/b") == image_of(3, "/b") == (None, None)


@pytest.mark.parametrize("group", [1, 2, 5, 100])
def test_parquet(tmp_path, group):
    images = [image_bytes(number, size=8) for number in range(11)]
    for part, (first, last) in enumerate([(0, 7), (7, 7), (7, 11)]):
        table = pa.table(
            {
                "other": list(range(first, last)),
                "image": pa.array(images[first:last], pa.binary()),
                "caption": [[f"{number}", "b"] for number in range(first, last)],
            },
            pa.schema([("other", pa.int64()), ("image", pa.binary()), ("caption", pa.list_(pa.string()))]),
        )
        pq.write_table(table, tmp_path / f"{part}.parquet", row_group_size=group)
    found = rows_of(open_source(str(tmp_path), Wanted()), tmp_path / "work")
    assert [row.image for row in found] == images
    assert [row.captions for row in found] == [[f"{number}", "b"] for number in range(11)]
    struct = pa.array([{"bytes": image, "path": "x.jpg"} for image in images])
    pq.write_table(pa.table({"pic": struct, "caption": ["x"] * 11, "text": ["y"] * 11}), tmp_path / "s.parquet")
    with pytest.raises(
        UserError, match=r"2 columns that may hold it: its columns are 'pic', 'caption', 'text'; .*csv-cap"
    ):
        open_source(str(tmp_path / "s.parquet"), Wanted(image="pic"))
    found = rows_of(open_source(str(tmp_path / "s.parquet"), Wanted(image="pic", caption="text")), tmp_path / "work")
    assert [(row.image, row.captions, row.name) for row in found] == [(image, ["y"], "x.jpg") for image in images]


def test_a_folder_with_text_beside_images(tmp_path):
    names = ["a/1.jpg", "a/2.JPEG", "b.c.png", "b.c.jpg", ".hidden/3.jpg", "a/._1.jpg", "z.webp"]
    put_images(tmp_path / "data", names)
    for name, text in {"a/1.txt": "﻿one\n", "a/2.txt": "", "b.c.txt": "two", "README.txt": "no"}.items():
        (tmp_path / "data" / name).write_text(text, encoding="utf-8")
    found = rows_of(open_source(str(tmp_path / "data"), Wanted()), tmp_path / "work")
    assert [(row.name, row.captions) for row in found] == [
        ("b.c.jpg", ["two"]),
        ("b.c.png", ["two"]),
        ("z.webp", []),
        ("a/1.jpg", ["one"]),
        ("a/2.JPEG", []),
    ]
    assert found[0].image == str(tmp_path / "data" / "b.c.jpg")


def test_a_folder_per_class(tmp_path):
    put_images(tmp_path / "data", ["great_dane/1.jpg", "cat/x/2.jpg", "0.jpg"])
    for template in ("a photo of a {}", "a photo of a {c}"):
        found = rows_of(open_source(str(tmp_path / "data"), Wanted(template=template)), tmp_path / "work")
        captions = {row.name: row.captions for row in found}
        assert captions == {
            "0.jpg": [],
            "cat/x/2.jpg": ["a photo of a cat"],
            "great_dane/1.jpg": ["a photo of a great dane"],
        }
    with pytest.raises(UserError, match=r"no .txt beside any of its images; .* --caption-template 'a photo of a \{\}'"):
        open_source(str(tmp_path / "data"), Wanted())
    with pytest.raises(UserError, match=r"holds neither \{\} nor \{c\}"):
        open_source(str(tmp_path / "data"), Wanted(template="a photo"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no image in it"):
        open_source(str(tmp_path / "empty"), Wanted())


def test_coco_captions(tmp_path):
    put_images(tmp_path, ["train2017/000000000009.jpg", "train2017/000000000025.jpg"])
    content = {
        "images": [{"id": 25, "file_name": "000000000025.jpg"}, {"id": 9, "file_name": "000000000009.jpg"}],
        "annotations": [
            {"id": 1, "image_id": 9, "caption": "nine"},
            {"id": 2, "image_id": 25, "caption": "first"},
            {"id": 3, "image_id": 25, "caption": "second"},
        ],
    }
    path = tmp_path / "annotations" / "captions_train2017.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    found = rows_of(open_source(str(path), Wanted()), tmp_path / "work")
    assert [(row.captions, row.listed) for row in found] == [(["first", "second"], True), (["nine"], True)]
    assert found[0].image == str(tmp_path / "annotations" / ".." / "train2017" / "000000000025.jpg") or found[
        0
    ].image == str(tmp_path / "train2017" / "000000000025.jpg")
    path.write_text(json.dumps({"images": [{"id": 1}], "annotations": []}))
    with pytest.raises(UserError, match="is no COCO captions file: KeyError 'file_name'"):
        open_source(str(path), Wanted())


def test_karpathy_splits_and_lists_of_records(tmp_path):
    put_images(tmp_path, ["a.jpg", "val/b.jpg"])
    sentences = [{"raw": "one"}, {"raw": "two"}]
    content = {
        "images": [
            {"filename": "a.jpg", "split": "train", "sentences": sentences},
            {"filename": "b.jpg", "filepath": "val", "split": "test", "sentences": sentences[:1]},
        ]
    }
    (tmp_path / "flickr.json").write_text(json.dumps(content))
    found = rows_of(open_source(str(tmp_path / "flickr.json"), Wanted()), tmp_path / "work")
    assert [(row.name, row.captions) for row in found] == [("a.jpg", ["one", "two"]), ("val/b.jpg", ["one"])]
    test = open_source(str(tmp_path / "flickr.json"), Wanted(split="test"))
    assert [row.name for row in rows_of(test, tmp_path / "work")] == ["val/b.jpg"]
    with pytest.raises(UserError, match="names no image of --split nothing"):
        open_source(str(tmp_path / "flickr.json"), Wanted(split="nothing"))
    (tmp_path / "blip.json").write_text(json.dumps([{"image": "a.jpg", "caption": "x"}]))
    assert rows_of(open_source(str(tmp_path / "blip.json"), Wanted()), tmp_path / "work")[0].captions == ["x"]
    (tmp_path / "far.json").write_text(json.dumps([{"image": "q.jpg", "caption": "x"}]))
    with pytest.raises(UserError, match="give their folder with --image-dir"):
        open_source(str(tmp_path / "far.json"), Wanted())


def as_dataset(count: int) -> tuple[datasets.Dataset, list[bytes]]:
    images = [image_bytes(number, size=8) for number in range(count)]
    columns = {"image": [{"bytes": image, "path": None} for image in images], "n": list(range(count))}
    captions = {"text": [f"caption {number}" for number in range(count)]}
    features = {"image": datasets.Image(), "n": datasets.Value("int64"), "text": datasets.Value("string")}
    return datasets.Dataset.from_dict(columns | captions, datasets.Features(features)), images


def test_a_folder_of_save_to_disk(tmp_path):
    data, images = as_dataset(8)
    data.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=data, test=data.select([3, 1])).save_to_disk(tmp_path / "two")
    for wanted, places in ((("one", None), range(8)), (("two", None), range(8)), (("two", "test"), (3, 1))):
        found = rows_of(open_source(str(tmp_path / wanted[0]), Wanted(split=wanted[1])), tmp_path / "work")
        assert [row.image for row in found] == [images[place] for place in places]
        assert [row.captions for row in found] == [[f"caption {place}"] for place in places]
    with pytest.raises(UserError, match="has the splits train, test; choose one with --split"):
        open_source(str(tmp_path / "two"), Wanted(split="val"))


def test_a_stream(tmp_path):
    data, images = as_dataset(8)
    identity = {"name": "some/set", "split": "train"}
    source = hf_datasets.stream_rows(data.to_iterable_dataset(), identity, data.column_names, None, None)
    for size in (1, 3, 4, 8, 9):
        found = rows_of(source, tmp_path / "work", size)
        assert [(row.image, row.captions) for row in found] == [
            (image, [f"caption {number}"]) for number, image in enumerate(images)
        ]
        # Units that stand on disk are passed over.
        odd = [list(source.rows(unit, tmp_path)) for unit in source.units(size, tmp_path) if unit.shard % 2]
        assert [row.image for rows in odd for row in rows] == [
            image for number, image in enumerate(images) if number // size % 2
        ]


def test_images_of_a_stream_behind_urls_are_fetched(tmp_path):
    image = image_bytes(5)
    (tmp_path / "a.jpg").write_bytes(image)
    with web(tmp_path) as (url, _):
        cells = [{"path": f"{url}/{name}.jpg", "bytes": None} for name in ("a", "gone")]
        cells.append({"path": f"file://{tmp_path}/a.jpg", "bytes": None})
        features = datasets.Features({"image": datasets.Image(decode=False), "text": datasets.Value("string")})
        data = datasets.Dataset.from_dict({"image": cells, "text": ["x", "y", "z"]}, features).to_iterable_dataset()
        source = hf_datasets.stream_rows(data, {"name": "s", "split": "train"}, ["image", "text"], None, None)
        packed = pack(source, tmp_path / "tars")
        found = rows_of(source, tmp_path / "work")
    assert [row.image for row in found] == [image, None, None] and [row.name for row in found] == [
        cell["path"] for cell in cells
    ]
    assert packed.samples == 1
    assert packed.skipped == dict.fromkeys([row.fault for row in found[1:]], 1)
    assert packed.examples[found[2].fault] == [cells[2]["path"]]


def test_rows_that_are_not_utf_8_are_counted_and_other_tables_are_told(tmp_path):
    table = tmp_path / "t.csv"
    table.write_bytes("filepath\ttitle\tnote\na.jpg\tcafé\tx\nb.jpg\tplain\ty\n".encode("latin-1"))
    found = rows_of(open_source(str(table), Wanted()), tmp_path / "work")
    assert [row.fault for row in found] == ["the row is not UTF-8: save the file as UTF-8", None]
    for content, reason in (
        ("filepath\ttitle\na.jpg\tb\n".encode("utf-16"), "is UTF-16: save it as UTF-8"),
        (b"x" * (1 << 18) + b"\n1\n", "no column 'filepath'"),
        (b"filepath\ttitle\ra.jpg\tb\rb.jpg\tc\r", "lines that end in LF"),
        (b"filepath\ttitle\ttitle\na.jpg\tb\tc\n", "has 2 columns 'title'"),
    ):
        table.write_bytes(content)
        with pytest.raises(UserError, match=reason):
            open_source(str(table), Wanted())
    annotations = tmp_path / "coco.json"
    annotations.write_text("{")
    with pytest.raises(UserError, match=r"is not valid JSON .* give COCO captions, whole"):
        open_source(str(annotations), Wanted())


def test_names_that_are_nothing(tmp_path, monkeypatch):
    (tmp_path / "x.bin").write_bytes(b"x")
    (tmp_path / "x.csv.gz").write_bytes(b"\x1f\x8b" + bytes(20))
    for name, reason in {
        f"{tmp_path}/none.csv": "does not exist",
        "none.csv": "does not exist",
        f"{tmp_path}/x.bin": "is no CSV, TSV, parquet, JSON or JSON lines",
        f"{tmp_path}/x.csv.gz": "compressed: unpack it first",
    }.items():
        with pytest.raises(UserError, match=reason):
            open_source(name, Wanted())

    def unreachable(*_, **__):
        raise ConnectionError("no network\nhere")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(UserError, match=r"org/name is neither on disk .* \(ConnectionError: no network here\)"):
        open_source("org/name", Wanted())


def test_pictures_are_as_pillow_sees_them():
    from mcl_clip.packing.images import read_picture

    for format, extension in (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("GIF", "png"), ("BMP", "png")):
        for mode in ("RGB", "L"):
            stream = io.BytesIO()
            Image.new(mode, (5, 9)).save(stream, format)
            picture = read_picture(stream.getvalue())
            assert picture[1:] == (extension, 5, 9)
            assert (picture.data == stream.getvalue()) == (format not in ("GIF", "BMP"))
