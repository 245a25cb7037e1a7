"""mcl-cluster, also under torchrun: embed data with a finished stage, fit k-means, label every sample."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from mcl_clip.artifacts import check_place
from mcl_clip.clustering.clusters import Clusters
from mcl_clip.clustering.encoder import AUTOCAST, TOWERS
from mcl_clip.clustering.information import agreement
from mcl_clip.clustering.stage import cluster_stage
from mcl_clip.errors import UserError
from mcl_clip.help_text import with_examples
from mcl_clip.launch import take_slurm
from mcl_clip.openclip.distributed import check_device
from training.arrows.source import open_or_index
from training.endings import end
from training.ranks import Ranks, join, leave


def main(arguments: Sequence[str] | None = None) -> int:
    """Cluster one stage and print what came out; exit status 2 for a mistake in flags or input."""
    options = _parser().parse_args(arguments)
    take_slurm()
    ranks: Ranks | None = None
    try:
        check_device(options.device)
        check_place("--output", options.output, directory=True)
        ranks = join(options.device, None, None, False)
        clusters = _cluster(options, ranks)
        if ranks.is_first:
            _report(clusters, options.compare)
        leave(ranks)
        return 0
    except Exception as error:
        return end(ranks, error)


def _cluster(options: argparse.Namespace, ranks: Ranks) -> Clusters:
    # A mistake is said before hours of work, not after.
    compared = Clusters.load(options.compare) if options.compare else None
    source = open_or_index(
        options.train_data,
        options.index or options.output.with_name(f"{options.output.name}-source"),
        ranks,
        caption_key=options.mcl_caption_key,
        skip_broken=options.mcl_skip_broken,
        workers=options.workers,
    )
    if compared and compared.data_hash != source.hash:
        raise UserError(f"--compare {options.compare} was made from other data than --train-data {options.train_data}")
    return cluster_stage(
        options.model,
        source,
        options.output,
        k=options.mcl_clusters,
        text_k=options.mcl_text_clusters,
        on=options.mcl_cluster_on,
        seed=options.seed,
        reservoir=options.mcl_reservoir,
        restarts=options.restarts,
        batch_size=options.batch_size,
        precision=options.precision,
        previous=options.previous,
        keep_features=options.mcl_keep_features,
        workers=options.workers,
        device=str(ranks.device),
        world=ranks,
        progress=True,
    )


def _report(clusters: Clusters, compare: str | None) -> None:
    info = clusters.info
    print(
        f"{clusters.directory}: {info['samples']} samples in {clusters.k} clusters of {min(info['sizes'])} "
        f"to {max(info['sizes'])} (as many as {info['imbalance']['effective_clusters']:.1f} even ones), "
        f"mean squared distance {info['mean_squared_distance']:.4f}, {info['failed']['count']} failed"
    )
    for earlier in info["previous_stages"]:
        print(
            f"with stage {earlier['stage']}: normalized mutual information {earlier['normalized']:.3f}, "
            f"{earlier['new_bits']:.2f} bits new"
        )
    if compare:
        print(f"with {compare}: adjusted Rand index {agreement(clusters.directory, compare):.4f}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mcl-cluster",
        description=with_examples(
            (
                "mcl-cluster runs/demo/stage_0/model --train-data runs/demo/source --output runs/demo-clusters",
                "mcl-cluster runs/demo/stage_1/model --train-data runs/demo/source --previous "
                "runs/demo/stage_0/clusters --mcl-clusters 4 --output runs/demo-clusters-1",
            ),
            "Embed data with a finished stage, fit k-means, label every sample; also under torchrun.",
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", help="stage directory with open_clip_config.json and weights")
    add(
        "--train-data",
        required=True,
        help="tars: a path, brace pattern, glob or directory, several joined by '::'; or a directory with a "
        "manifest.json",
    )
    add("--output", required=True, type=Path, help="directory to write; the same command resumes")
    add("--previous", nargs="+", default=[], help="cluster directories of all earlier stages, in order")
    add("--mcl-clusters", type=int, default=10, help="clusters (default 10)")
    add("--mcl-cluster-on", choices=list(TOWERS), default="image", help="embeddings (default image)")
    add("--mcl-text-clusters", type=int, help="text clusters with image-text (default: --mcl-clusters)")
    add(
        "--mcl-reservoir",
        type=int,
        default=1_000_000,
        help="most samples k-means is fitted on; rank 0 holds samples x dimension x 4 bytes of them, 2.0 GB "
        "for the default at dimension 512. Data that fits takes one pass over the images, other data two "
        "(default 1000000)",
    )
    add("--mcl-keep-features", action="store_true", help="keep the embeddings beside the labels, fp16")
    add("--restarts", type=int, default=3, help="k-means restarts, of which the best counts (default 3)")
    add("--seed", type=int, default=0)
    add("--batch-size", type=int, default=256, help="samples embedded at once on each rank (default 256)")
    add("--precision", choices=list(AUTOCAST), help="bf16, fp16: autocast (default: bf16 on CUDA, fp32 on a CPU)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    add("--workers", type=int, default=4, help="decoding processes of each rank (default 4)")
    add("--index", help="where the index of tars goes (default: OUTPUT-source)")
    add("--mcl-caption-key", "--caption-key", help="take captions from this key of .json, not from .txt; '': need none")
    add("--mcl-skip-broken", action="store_true", help="leave broken tars out, counted and listed")
    add("--compare", help="clusters of the same data: print the adjusted Rand index with them")
    return parser


if __name__ == "__main__":
    sys.exit(main())
