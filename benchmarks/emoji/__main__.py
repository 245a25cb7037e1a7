"""`python -m benchmarks.emoji data`: fetch the packages and draw shards, pairs and zero-shot sets."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.emoji.data import generate
from benchmarks.emoji.drawings import SIDES
from mcl_clip.errors import UserError, exit_on_user_error


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.emoji", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    data = commands.add_parser("data", help="fetch the packages with npm and draw the data, reusing what is there")
    data.add_argument("--side", type=int, default=32, help=f"pixels, one of {', '.join(map(str, SIDES))} (default 32)")
    data.add_argument("--seed", type=int, default=0, help="of the order, and of the captions kept out (default 0)")
    data.add_argument("--results", type=Path, default=Path("runs/emoji"), help="everything stands here")
    data.add_argument("--processes", type=int, default=2, help="packages drawn at a time (default 2)")
    args = parser.parse_args(argv)
    if args.processes < 1:
        raise UserError("--processes must be at least 1")
    found = generate(
        args.results / f"data-{args.side}",
        args.results / "npm",
        side=args.side,
        seed=args.seed,
        processes=args.processes,
        progress=sys.stderr.isatty(),
    )
    print(f"data: {found}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
