"""Flags that say nothing of a set are refused, never passed over."""

import json

import pytest

from eval.data.classification import open_set
from eval.data.retrieval import open_captions
from eval.linear_probe import main
from mcl_clip.errors import UserError
from tests.test_knn import table as table
from tests.test_zero_shot import class_folders

COLUMNS = {"label_column": "a", "image_column": "b"}


@pytest.mark.parametrize("flag", [*COLUMNS, "revision"])
def test_folders_and_shards_are_no_tables(tmp_path, flag) -> None:
    folders = class_folders(tmp_path / "set")
    shards = tmp_path / "shards"
    (shards / "test").mkdir(parents=True)
    (shards / "classnames.txt").write_text("ant\n")
    (shards / "test" / "nshards.txt").write_text("1")
    said = f"--{flag.replace('_', '-')} says nothing of "
    for place in (folders, shards):
        with pytest.raises(UserError, match=said):
            open_set(str(place), **{flag: "a"})


def test_a_table_on_disk_has_columns_and_no_revision(table) -> None:
    assert open_set(str(table), label_column="red", image_column="image").size == 24
    with pytest.raises(UserError, match="--revision says nothing of"):
        open_set(str(table), label_column="red", revision="v1")


def test_a_json_of_captions_has_no_columns(tmp_path) -> None:
    captions = tmp_path / "captions.json"
    captions.write_text(json.dumps({"images": [], "annotations": []}))
    for flag in ("image_column", "caption_column", "revision"):
        with pytest.raises(UserError, match=f"--{flag.replace('_', '-')} says nothing of"):
            open_captions(str(captions), **{flag: "a"})


def test_the_command_ends_with_a_line(tmp_path, capsys) -> None:
    folders = class_folders(tmp_path / "set")
    with pytest.raises(SystemExit) as ended:
        main(["--model", "nowhere", "--dataset", str(folders), "--label-column", "a,b"])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1 and "--label-column says nothing of" in error
