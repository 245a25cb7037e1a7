"""A train and a test split of a classification set, by one or several of its label columns, as flags name them."""

import argparse

from eval.command import add_column_arguments, tell
from eval.data.classification import open_set
from eval.data.classification_set import ClassificationSet
from eval.data.limit import some_images

Split = ClassificationSet | dict[str, ClassificationSet]


def add_split_arguments(parser: argparse.ArgumentParser) -> None:
    """--dataset, --train-split, --split and those of its columns."""
    parser.add_argument("--dataset", required=True, help="as for mcl-zero-shot; it needs a split to fit on")
    parser.add_argument("--train-split", default="train")
    parser.add_argument("--split", default="test")
    add_column_arguments(parser, several=True)


def open_splits(args: argparse.Namespace) -> tuple[Split, Split]:
    """The split to fit on and the one to score; by column where --label-column names several."""
    columns = (args.label_column or "").split(",")
    train, test = (
        {column: _opened(args, split, column or None) for column in columns} for split in (args.train_split, args.split)
    )
    tell([note for split in (train, test) for each in split.values() for note in each.notes])
    return (train[columns[0]], test[columns[0]]) if len(columns) == 1 else (train, test)


def _opened(args: argparse.Namespace, split: str, column: str | None) -> ClassificationSet:
    found = open_set(
        args.dataset,
        split,
        templates="simple",
        image_column=args.image_column,
        label_column=column,
        revision=args.revision,
    )
    return some_images(found, args.limit)
