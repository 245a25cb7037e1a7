"""A folder per class: what counts as an image of it, what is left out, and that it is said."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from eval.data.classification import open_set
from mcl_clip.errors import UserError
from mcl_clip.loading.class_folders import in_order, list_images, numbers_of, visible_folders


def image(seed: int, form: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)).save(buffer, form)
    return buffer.getvalue()


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


@pytest.fixture
def plain(tmp_path) -> Path:
    return write(tmp_path / "set", {f"{name}/deep/{n}.jpg": image(n) for name in ("cat", "dog") for n in range(4)})


def test_hidden_entries_count_at_no_depth_and_are_told(plain) -> None:
    before = [(sample.where, sample.label) for sample in open_set(str(plain)).samples()]
    assert len(before) == 8 and open_set(str(plain)).notes == ()
    rubbish = ("cat/.ipynb_checkpoints/0.jpg", "cat/deep/.x/y/0.jpg", "dog/._0.jpg", "dog/deep/.DS_Store")
    rubbish += ("__MACOSX/cat/._0.jpg", ".git/config", "dog/@eaDir/0.jpg/SYNOFILE_THUMB_M.jpg")
    write(plain, dict.fromkeys(rubbish, b"\0\5\26\7"))
    found = open_set(str(plain))
    assert [(sample.where, sample.label) for sample in found.samples()] == before
    assert found.notes == (f"left out of {plain} are hidden entries: 7, first .git",)


def test_image_types_are_those_of_torchvisions_image_folder(plain) -> None:
    kinds = {"bmp": "BMP", "tif": "TIFF", "TIFF": "TIFF", "ppm": "PPM", "pgm": "PPM", "webp": "WEBP", "PNG": "PNG"}
    write(plain, {f"cat/{suffix}.{suffix}": image(9, form) for suffix, form in kinds.items()})
    write(plain, {"dog/list.txt": b"x", "dog/anim.gif": b"GIF89a", "cat/notes": b""})
    found = open_set(str(plain))
    theirs = ImageFolder(str(plain)).samples
    assert sorted((sample.where, sample.label) for sample in found.samples()) == sorted(theirs) and len(theirs) == 15
    assert all(sample.image().size == (8, 8) for sample in found.samples())
    assert found.notes == (f"left out of {plain} are no images (.gif, .txt, no suffix): 3, first cat/notes",)


def test_a_class_of_other_files_is_an_error_that_says_so(plain) -> None:
    write(plain, {"elk/1.heic": b"", "elk/.1.jpg": b""})
    with pytest.raises(UserError, match=r"class elk in .* has no images but \.heic"):
        open_set(str(plain))


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["0", "1", "10", "100", "2"], ["0", "1", "2", "10", "100"]),
        (["010", "001", "9"], ["001", "9", "010"]),
        (["class_10", "class_9", "Class_1"], ["Class_1", "class_9", "class_10"]),
        (["10_dogs", "9_cats"], ["10_dogs", "9_cats"]),
        (["2", "10", "cat"], ["10", "2", "cat"]),
        (["b", "B", "a"], ["B", "a", "b"]),
        (["n02012849", "n01440764"], ["n01440764", "n02012849"]),
    ],
)
def test_order_is_by_number_where_all_are_numbers(names, order) -> None:
    assert in_order(names) == order
    assert in_order(names[::-1]) == order


def test_one_number_twice_is_refused() -> None:
    with pytest.raises(UserError, match="1 and 01 are the same number"):
        numbers_of(["0", "1", "01"])


def test_listing_a_folder(plain) -> None:
    write(plain, {".cat/1.jpg": b"", "cat/b.txt": b""})
    assert [folder.name for folder in visible_folders(plain)] == ["cat", "dog"]
    listing = list_images(plain / "cat")
    assert [file.name for file in listing.images] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert (listing.hidden, listing.others) == ([], [plain / "cat/b.txt"])
