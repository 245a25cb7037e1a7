"""All that waits for a GPU, in order, each part in a process of its own within its time; stopped, it goes on.

A finished part of this machine is not run again. Without CUDA there is only --smoke, a dry run of every part in tiny.
"""

import argparse
import contextlib
import importlib
import io
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.gpu.parts import NEEDS, PARTS, Part
from benchmarks.gpu.record import machine, read, table, write
from mcl_clip.errors import UserError, exit_on_user_error

ROOT = Path(__file__).parents[2]
BUDGET = 480


@exit_on_user_error
def main(arguments: list[str] | None = None) -> int:
    """Run what is missing; exit status 1 when a part failed, 2 without a CUDA device."""
    known = {part.name: part for part in PARTS}
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("docs/results-gpu.json"), help="default: %(default)s")
    parser.add_argument("--parts", nargs="+", choices=list(known), help="these only (default: all)")
    parser.add_argument("--again", action="store_true", help="run finished parts too")
    parser.add_argument("--seconds", type=int, default=BUDGET, help="of all parts together (default %(default)s)")
    parser.add_argument("--smoke", action="store_true", help="every part in tiny on the CPU; nothing is kept")
    parser.add_argument("--needs", action="store_true", help="print what it needs on a machine without a network")
    options = parser.parse_args(arguments)
    if options.needs:
        print(NEEDS, end="")
        return 0
    if not options.smoke and not torch.cuda.is_available():
        raise UserError(
            "PyTorch sees no CUDA device here; --smoke tries every part on the CPU, --needs says what to bring"
        )
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        output = Path(folder) / "results-gpu.json" if options.smoke else options.output
        record = read(output)
        found = record.setdefault(machine(), {})
        begun = time.monotonic()
        chosen = [known[name] for name in options.parts or known]
        for part in tqdm(chosen, "parts", disable=None):
            if not options.again and "result" in found.get(part.name, {}):
                continue
            left = options.seconds - (time.monotonic() - begun)
            if left < 1:
                print(f"{part.name}: no time is left; the same command goes on with it", file=sys.stderr)
                continue
            place = Path(folder) / part.name.replace(" ", "-")
            place.mkdir()
            run = _dry if options.smoke else partial(_timed, seconds=min(part.seconds, left))
            found[part.name] = run(part, place)
            write(output, record)
        print(table(record))
    return int(any("error" in found.get(part.name, {}) for part in chosen))


def _timed(part: Part, folder: Path, *, seconds: float) -> dict[str, Any]:
    """What it printed last, as a result, or why there is none; in a process of its own."""
    command = [sys.executable, "-m", part.module, *part.arguments(False, folder)]
    begun = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=seconds)
        said, failed = done.stdout, done.stderr.strip() if done.returncode else ""
    except subprocess.TimeoutExpired as late:
        said, failed = (late.stdout or b"").decode(), f"stopped after {seconds:.0f} s"
    entry: dict[str, Any] = {"seconds": round(time.monotonic() - begun, 1)}
    lines = [line for line in said.splitlines() if line.startswith("{")]
    if failed and not lines:
        return entry | {"error": failed.splitlines()[-1]}
    return entry | {"result": json.loads(lines[-1]) | ({"not whole": failed.splitlines()[-1]} if failed else {})}


def _dry(part: Part, folder: Path) -> dict[str, Any]:
    """The same in this process, in tiny."""
    begun = time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()) as said:
        status = importlib.import_module(part.module).main(part.arguments(True, folder))
    assert not status, part.name
    return {"seconds": round(time.monotonic() - begun, 1), "result": json.loads(said.getvalue().splitlines()[-1])}


if __name__ == "__main__":
    sys.exit(main())
