"""A start at the scale of 2e9 samples, from the command on: time and memory; to plan a batch, to resume; bytes read."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MEASURES = ("first_rank", "other_rank", "stage_0_reads")
_REPORTED = ("json", "measure", "directory", "begun", "samples", "lanes", "window")  # no result, or measured


def main(arguments: list[str] | None = None) -> int:
    """Write empty tars, an index and buckets without tars; then measure each process in one of its own."""
    options = _parser().parse_args(arguments)
    if options.measure:
        from benchmarks.planner import ranks

        print(json.dumps(getattr(ranks, options.measure)(options, options.directory)))
        return 0
    with tempfile.TemporaryDirectory(prefix="planner-") as temporary:
        from benchmarks.planner.data import write_buckets, write_source

        write_source(options, Path(temporary))
        write_buckets(options, Path(temporary))
        result: dict = {}
        for measure in MEASURES:
            own = ("--directory", temporary, "--measure", measure, "--begun", repr(time.time()))
            command = [sys.executable, "-m", "benchmarks.planner", *(sys.argv[1:] if arguments is None else arguments)]
            measured = subprocess.run([*command, *own], check=True, stdout=subprocess.PIPE, text=True)
            result |= json.loads(measured.stdout.splitlines()[-1])
    result |= {name: value for name, value in vars(options).items() if name not in _REPORTED}
    result |= {"cores": os.cpu_count(), "load": os.getloadavg()[0]}
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planner", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--samples", type=int, default=2_000_000_000)
    parser.add_argument("--labels", type=int, default=1000)
    parser.add_argument("--shard-size", type=int, default=1000, help="samples in a full shard")
    parser.add_argument("--tail", type=float, default=1.2, help="label k holds a share proportional to k ** -tail")
    parser.add_argument("--global-batch", type=int, default=32768)
    parser.add_argument("--lanes", type=int, help="default: that of training")
    parser.add_argument("--window", type=int, help="default: that of training")
    parser.add_argument("--nodes", type=int, default=128)
    parser.add_argument("--node", type=int, default=37, help="the node whose reads are followed for a whole epoch")
    parser.add_argument("--cache-gib", type=float, default=64.0, help="cache of whole tars on a node")
    parser.add_argument("--sample-kib", type=float, default=30.0, help="bytes of a sample in its tar")
    parser.add_argument("--seed", type=int, default=0)
    for name, kind in (("--measure", str), ("--directory", Path), ("--begun", float)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
