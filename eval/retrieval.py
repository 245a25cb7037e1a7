"""mcl-retrieval: captions by image and images by caption, for every stage and the fused model."""

import argparse
import sys
from collections.abc import Sequence

from eval.command import add_model_arguments, add_output_arguments, load_scored_model, show, tell
from eval.data.retrieval import open_captions
from eval.tasks.retrieval import KS, evaluate
from mcl_clip.errors import exit_on_user_error
from mcl_clip.launch import one_process


@exit_on_user_error
@one_process
def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="mcl-retrieval",
        description="Recall at 1, 5 and 10 of captions by image (text_retrieval) and of images by caption "
        "(image_retrieval), with all captions of an image, for every stage, every cumulative fusion and the fused "
        "model.",
        epilog="examples: mcl-retrieval --model runs/NAME/fused --dataset captions_val2017.json --images val2017; "
        "mcl-retrieval --model ViT-B-32 --pretrained openai --dataset clip-benchmark/wds_flickr8k",
    )
    add_model_arguments(parser)
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
    add_output_arguments(parser)
    args = parser.parse_args(argv)
    data = open_captions(
        args.dataset,
        args.split,
        images=args.images,
        image_column=args.image_column,
        caption_column=args.caption_column,
        revision=args.revision,
    )
    tell(data.notes)
    rows = evaluate(load_scored_model(args), data, batch_size=args.batch_size, progress=sys.stderr.isatty())
    show(rows, [f"{what}_retrieval_recall@{k}" for what in ("image", "text") for k in KS], args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
