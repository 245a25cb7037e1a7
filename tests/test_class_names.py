"""Lists of class names against sets whose classes are numbers or names, in every layout."""

from pathlib import Path

import datasets
import pytest

from eval.data.class_names import listed_names, require_names
from eval.data.classification import open_set
from eval.data.classification_set import ClassificationSet
from mcl_clip.errors import UserError
from tests.test_class_folders import image, write

NAMES = [f"thing {number}" for number in range(12)]


def numbered_folders(root: Path, numbers) -> Path:
    return write(root, {f"{number}/{number}.jpg": image(int(number)) for number in numbers})


def listed(path: Path, names) -> str:
    path.write_text("\n".join(names) + "\n")
    return str(path)


def by_image(found: ClassificationSet) -> dict[str, str]:
    """Class name by the stem of the image's file, or its row."""
    return {Path(sample.where).stem: found.classnames[int(sample.label)] for sample in found.samples()}


def table(folder: Path, labels, feature) -> Path:
    columns = {"image": [{"bytes": image(0), "path": None} for _ in labels], "label": labels}
    kinds = datasets.Features({"image": datasets.Image(), "label": feature})
    datasets.Dataset.from_dict(columns, features=kinds).save_to_disk(folder)
    return folder


@pytest.mark.parametrize("width", [1, 4])
def test_numbered_folders_take_names_by_number(tmp_path, width) -> None:
    folders = [f"{number:0{width}d}" for number in range(12)]
    root = numbered_folders(tmp_path / "set", folders)
    expected = {name: f"thing {int(name)}" for name in folders}
    names = listed(tmp_path / "names.txt", NAMES)
    found = open_set(str(root), classnames=names)
    assert by_image(found) == expected and found.notes == ()
    listed(root / "classnames.txt", NAMES)
    assert by_image(open_set(str(root))) == expected


def test_some_of_the_classes_keep_their_numbers(tmp_path) -> None:
    root = numbered_folders(tmp_path / "set", [0, 2, 10])
    found = open_set(str(root), classnames=listed(tmp_path / "names.txt", NAMES))
    assert by_image(found) == {"0": "thing 0", "2": "thing 2", "10": "thing 10"}
    assert found.classnames == tuple(NAMES) and found.notes == ("3 of the 12 named classes have images",)
    root = numbered_folders(tmp_path / "from 1", range(1, 12))
    with pytest.raises(UserError, match=r"12 names for 11 classes, 1, 2, 3, \.\.\., 11"):
        open_set(str(root), classnames=str(tmp_path / "names.txt"))


def test_numbers_from_one_and_with_gaps_go_by_their_order(tmp_path) -> None:
    names = listed(tmp_path / "names.txt", NAMES)
    found = open_set(str(numbered_folders(tmp_path / "one", range(1, 13))), classnames=names)
    assert by_image(found) == {str(number): f"thing {number - 1}" for number in range(1, 13)} and found.notes == ()
    found = open_set(str(numbered_folders(tmp_path / "gaps", range(0, 120, 10))), classnames=names)
    assert by_image(found) == {str(number): f"thing {number // 10}" for number in range(0, 120, 10)}
    assert found.notes == (
        f"--classnames {names} is matched to the classes by position, classes by number: "
        "0 is 'thing 0', 10 is 'thing 1', 20 is 'thing 2', ..., 110 is 'thing 11'",
    )


@pytest.mark.parametrize("kind", ["text", "class label", "number"])
def test_tables_of_numbers_take_names_by_number(tmp_path, kind) -> None:
    text = sorted(map(str, range(12)))  # 0, 1, 10, 11, 2, as `datasets` orders folders
    feature = {
        "text": datasets.Value("string"),
        "class label": datasets.ClassLabel(names=text),
        "number": datasets.Value("int64"),
    }[kind]
    labels = list(range(12)) if kind == "number" else list(map(str, range(12)))
    found = open_set(str(table(tmp_path / "table", labels, feature)), classnames=listed(tmp_path / "names.txt", NAMES))
    assert [found.classnames[int(sample.label)] for sample in found.samples()] == NAMES


def test_lists_of_the_classes_own_names_go_by_name(tmp_path) -> None:
    root = write(tmp_path / "set", {f"{name}/{name}.jpg": image(1) for name in ("ant", "Polar_bear", "cat")})
    found = open_set(str(root), classnames=listed(tmp_path / "names.txt", ["cat", "ant", "polar bear"]))
    assert by_image(found) == {"ant": "ant", "Polar_bear": "polar bear", "cat": "cat"} and found.notes == ()


def test_other_lists_go_by_position_and_it_is_said(tmp_path) -> None:
    root = write(tmp_path / "set", {f"{name}/{name}.jpg": image(1) for name in ("ant", "bee")})
    where = listed(root / "classnames.txt", ["Ameise", "Biene"])
    found = open_set(str(root))
    assert by_image(found) == {"ant": "Ameise", "bee": "Biene"}
    assert found.notes == (
        f"{where} is matched to the classes by position, classes in the order of the data: "
        "ant is 'Ameise', bee is 'Biene'",
    )


def test_numbers_are_no_names_unless_listed(tmp_path) -> None:
    root = numbered_folders(tmp_path / "set", range(3))
    with pytest.raises(UserError, match=r"the classes of set are numbers, 0, 1, 2, .* --classnames FILE"):
        require_names(open_set(str(root)))
    require_names(open_set(str(root), classnames=listed(tmp_path / "digits.txt", ["0", "1", "2"])))
    require_names(listed_names(ClassificationSet("made", ("a", "b"), ("{}",), 0, lambda: iter(())), "xy", "here"))
