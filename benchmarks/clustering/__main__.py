"""Clustering, measured: one line with the numbers of the three parts, see `benchmarks/clustering/*.py`.

kmeans      speedup_vs_minibatch_kmeans, objective_ratio: unit vectors in 60 overlapping modes, against scikit-learn
extraction  extraction_overhead: tar to feature, over the bare forward pass on decoded tensors
memory      peak_memory_ratio: clustering at two sizes, each in a process of its own
sums        sum_us_a_sample: label files summed up, CPU time of one core; sum_us_an_earlier_stage: more for each
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import faiss
import sklearn
import torch

from benchmarks.clustering import extraction, kmeans, memory, sums


def main(arguments: list[str] | None = None) -> int:
    """Measure the chosen parts and print the numbers."""
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="clustering-") as temporary:
        parts: dict[str, Callable[[], dict]] = {
            "kmeans": partial(kmeans.measure, options),
            "extraction": partial(extraction.measure, options, Path(temporary) / "extraction"),
            "memory": partial(memory.measure, options, Path(temporary) / "memory"),
            "sums": partial(sums.measure, options, Path(temporary) / "sums"),
        }
        result: dict = {}
        for part in options.parts or parts:
            result |= parts[part]()
    result |= {name: value for name, value in vars(options).items() if name not in ("json", "parts")}
    result |= {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    result |= {"faiss": faiss.__version__, "scikit_learn": sklearn.__version__}
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.clustering",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--json", action="store_true", help="print one line of JSON")
    add("--parts", nargs="+", choices=["kmeans", "extraction", "memory", "sums"], help="measure these only")
    add("--points", type=int, default=400_000, help="vectors to cluster (default %(default)s)")
    add("--dim", type=int, default=512, help="of the vectors (default %(default)s)")
    add("--clusters", type=int, default=10, help="K (default %(default)s)")
    add("--restarts", type=int, default=3, help="of ours, timed besides one restart (default %(default)s)")
    add("--model", default="ViT-B-32", help="open_clip model that extracts, weights random (default %(default)s)")
    add("--device", default="cpu", help="of the extraction: cpu or cuda (default %(default)s)")
    add("--precision", default="fp32", choices=["fp32", "bf16", "fp16"], help="of the extraction (default %(default)s)")
    add("--images", type=int, default=192, help="JPEG of 500 x 375 to extract from (default %(default)s)")
    add("--batch-size", type=int, default=16, help="of the extraction (default %(default)s)")
    add("--workers", type=int, default=1, help="decoding processes (default %(default)s)")
    add("--rounds", type=int, default=4, help="of the extraction, of which the median counts (default %(default)s)")
    add("--sizes", type=int, nargs=2, default=[10_000, 40_000], help="samples whose peak memory is compared")
    add("--label-files", type=int, default=489, help="of 1,000 samples, to sum up (default %(default)s: a run of 2e6)")
    add("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
