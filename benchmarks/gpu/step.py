"""The training step under the published recipe's locks, on decoded batches: ours, compiled too, and open_clip's loop.

Rates are from a warm step to the last. `mfu` counts the operations that the locked model needs; `synchronisations` are
those that `torch.cuda.set_sync_debug_mode` saw in a run whose log has `log_lines` lines. A line of JSON is printed
after every measurement, each with all before it.
"""

import argparse
import json
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.train_step import Comparison
from benchmarks.turns import InTurn, Timed
from mcl_clip.loading.normalize import Normalize
from training.arithmetic import pixel_dtype
from training.build import BuiltModel, lock

PEAK_TFLOPS = {
    "H100 PCIe": 756, "H100": 989, "H200": 989, "B200": 2250, "A100": 312, "L40S": 362, "L40": 181, "A10": 125,
    "L4": 121, "RTX 4090": 165, "RTX 3090": 71,
}  # fmt: skip
"""In bf16, without sparsity, as the maker states them; the first name that a device's has counts."""


def main(arguments: list[str] | None = None) -> int:
    """Measure by turns of one run each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="as it prints always")
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default="amp_bf16")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--peak-tflops", type=float, help="of the device (default: known ones)")
    options = parser.parse_args(arguments)
    options.locked, options.skip_end_to_end = True, True
    if options.device == "cpu":
        options.backend = "eager"
    with tempfile.TemporaryDirectory(prefix="gpu-step-") as folder:
        for result in Kit(options, Path(folder)).measurements():
            print(json.dumps(result), flush=True)
    return 0


class Kit(Comparison):
    """One model for all runs: its weights move on, which no time depends on."""

    @cache  # noqa: B019  lives as long as the process
    def _build(self) -> BuiltModel:
        return super()._build()

    def measurements(self) -> Iterator[dict[str, Any]]:
        """What is known so far, again and again."""
        options = self.options
        images = torch.randn(options.batch_size, 3, *self._image_size(), device=self.device)
        texts = torch.randint(1, 49000, (options.batch_size, self._build().model.context_length), device=self.device)
        as_they_are = Normalize((0,), (1,), pixel_dtype(options.precision, self.device))
        batches, vectors = [(images, texts)] * options.steps, self._vectors(texts)
        result: dict[str, Any] = {"model": self.model if options.model else "tiny", "batch_size": options.batch_size}

        def ours(vectors: torch.Tensor | None) -> float:
            mine = self._micro_batches(batches, vectors)
            timed = InTurn(mine, options.steps, options.batch_size, as_they_are, vectors is not None)
            self._train_ours(timed)
            return timed.rate(options.batch_size)

        lock(self._build().model, self.recipe.stages[0])
        operations = self._operations(images[:1].float())
        peak = options.peak_tflops or self._peak()

        def told(rate: float) -> dict[str, Any]:
            tera = operations * rate / 1e12
            used = {"mfu": round(tera / peak, 4)} if peak else {}
            return {"samples_per_s": round(rate, 1), "tflops_per_s": round(tera, 2), **used}

        yield (result := result | {"text cache": told(ours(vectors))})
        theirs = Timed(batches)
        self._train_theirs(theirs)
        yield (result := result | {"open_clip_samples_per_s": round(theirs.rate(options.batch_size), 1)})
        with synchronisations(self.device) as seen:
            ours(vectors)
        yield (result := result | {"synchronisations": len(seen), "log_lines": -(-options.steps // self._log_every())})
        optimization = replace(self.recipe.optimization, torchcompile=True, torchcompile_backend=options.backend)
        self.recipe = replace(self.recipe, optimization=optimization)
        yield result | {"text cache, compiled": told(ours(vectors))}

    def _operations(self, image: torch.Tensor) -> int:
        """Of a sample whose text is known, forward and backward."""
        model: Any = self._build().model
        with FlopCounterMode(display=False) as counter:
            model.encode_image(image, normalize=True).sum().backward()
        model.zero_grad(set_to_none=True)
        return counter.get_total_flops()

    def _peak(self) -> float | None:
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else ""
        return next((peak for known, peak in PEAK_TFLOPS.items() if known in name), None)

    def _log_every(self) -> int:
        return self.recipe.reporting.log_every_n_steps


@contextmanager
def synchronisations(device: torch.device) -> Iterator[list[warnings.WarningMessage]]:
    """What made the host wait for the device, as torch tells it; nothing is seen on a CPU."""
    if device.type != "cuda":
        yield []
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        seen: list[warnings.WarningMessage] = []
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield seen
        finally:
            torch.cuda.set_sync_debug_mode("default")
            seen += [each for each in caught if "synchroniz" in str(each.message)]


if __name__ == "__main__":
    raise SystemExit(main())
