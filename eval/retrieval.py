"""mcl-retrieval: captions by image and images by caption, for every stage and the fused model."""

import argparse
import sys

from eval.command import main_of, tell
from eval.data.limit import some_captioned
from eval.data.retrieval import open_captions
from eval.data.retrieval_set import RetrievalSet
from eval.models import ScoredModel
from eval.task import Results, Task
from eval.tasks.retrieval import KS, evaluate

__all__ = ["TASK", "evaluate", "main"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The captioned images."""
    parser.add_argument(
        "--dataset",
        required=True,
        help="CLIP_benchmark's WebDataset layout, a hub id or folder that `datasets` reads, or a JSON of captions, "
        "COCO's or one of Karpathy's splits of COCO and Flickr",
    )
    parser.add_argument("--images", help="of a JSON: the folder of the images (default: the JSON's)")
    parser.add_argument("--split", default="test", help="of the data set (default test)")
    parser.add_argument("--revision", help="branch, tag or commit of a hub data set; the commit is recorded")
    parser.add_argument("--image-column", help="of a table (default: image, or the only column of images)")
    parser.add_argument("--caption-column", help="of a table, a text or a list (default: captions, caption, text, ...)")


def open_data(args: argparse.Namespace) -> RetrievalSet:
    """The set that the flags name."""
    data = open_captions(
        args.dataset,
        args.split,
        images=args.images,
        image_column=args.image_column,
        caption_column=args.caption_column,
        revision=args.revision,
    )
    tell(data.notes)
    return some_captioned(data, args.limit)


def score(scored: ScoredModel, data: RetrievalSet, args: argparse.Namespace) -> Results:
    """Every row of the model."""
    return evaluate(scored, data, batch_size=args.batch_size, progress=args.progress)


TASK = Task(
    name="retrieval",
    description="Recall at 1, 5 and 10 of captions by image (text_retrieval) and of images by caption "
    "(image_retrieval), with all captions of an image, for every stage, every cumulative fusion and the fused model.",
    examples=(
        "mcl-retrieval --model runs/demo/fused --dataset runs/demo-data/captions/captions.json --images "
        "runs/demo-data/mmvp",
        "mcl-retrieval --model runs/demo/stage_0 --dataset runs/demo-data/captions/captions.json --images "
        "runs/demo-data/mmvp --limit 40 --output runs/demo-retrieval.json",
    ),
    place="--dataset",
    headline=lambda rows: ["image_retrieval_recall@1", "text_retrieval_recall@1"],
    add_arguments=add_arguments,
    open=open_data,
    score=score,
    columns=lambda rows: [f"{what}_retrieval_recall@{k}" for what in ("image", "text") for k in KS],
)
main = main_of(TASK)


if __name__ == "__main__":
    sys.exit(main())
