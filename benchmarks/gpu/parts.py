"""The parts of the kit, in order: a command each, how long it may take, and what its line of JSON holds."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Part:
    """`python -m module`, with `given` on a GPU and `smoke` in a dry run; `{folder}` is a new folder. The last line
    that it prints is JSON. seconds: that it may take."""

    name: str
    seconds: int
    module: str
    given: str
    smoke: str

    def arguments(self, smoke: bool, folder: Path) -> list[str]:
        """Of its `main`."""
        return [word.format(folder=folder) for word in (self.smoke if smoke else self.given).split()]


_STEP, _LIKE_STEP = "benchmarks.gpu.step", "--model= --device cpu --precision fp32 --batch-size 4 --steps 6"
PARTS = (
    Part("tests", 60, "benchmarks.gpu.tests", "", ""),
    Part("loss", 45, "benchmarks.gpu.loss", "", "--device cpu --batch 64 --dim 8 --repeats 1"),
    Part("step ViT-B-32", 60, _STEP, "--model ViT-B-32 --batch-size 512", _LIKE_STEP),
    Part("step ViT-L-14", 75, _STEP, "--model ViT-L-14 --batch-size 128", _LIKE_STEP),
    Part(
        "loader", 30, "benchmarks.gpu.loader", "", "--device cpu --images 32 --batch-size 8 --epochs 1 --workers 0"
    ),
    Part(
        "clustering", 60, "benchmarks.gpu.clustering", "",
        "--device cpu --images 64 --different 16 --model mcl-tiny-vit --workers 0",
    ),
    Part(
        "fused inference", 40, "benchmarks.fused_inference", "--json --device cuda --batch-size 256",
        "--json --model mcl-tiny-vit --own-blocks 1 --batch-size 2 --rounds 1 --backend eager",
    ),
    Part("demo", 90, "benchmarks.gpu.demo", "--folder {folder}", "--folder {folder} --device cpu --size tiny"),
    Part("one NCCL rank", 20, "benchmarks.gpu.nccl", "", "--backend gloo"),
)  # fmt: skip


NEEDS = """\
What `make bench-gpu` needs beside a CUDA device (an H100 for the bars; any with 16 GiB for most parts) and its driver:

  wheels     on a machine with a network and the same Python, from a clone:
                 python -m pip download -d wheels -c constraints.txt '.[dev]' setuptools wheel
             and on the machine itself, from the clone with wheels/ beside it:
                 python -m venv .venv
                 .venv/bin/python -m pip install --no-index --find-links wheels -c constraints.txt -e '.[dev]'
                 .venv/bin/python -m benchmarks.gpu
             faiss-gpu comes with them on Linux x86-64; where it is missing k-means runs on the CPU, and the row says so
  compiler   a C compiler (gcc) for the parts that compile; without one they say so
  host       8 cores or more, 16 GiB of memory, 4 GiB in the temporary folder, 1 GiB in /dev/shm
  network    none: models have random weights, images are generated
  time       at most 8 minutes; a run that was stopped goes on with the parts that are missing
"""
