"""Our training loop against open_clip_train's: on the same decoded batches, and from the same shards with workers.

The two take turns in one run. A rate is counted from a warm step to the last, between the arrivals of batches,
so it holds all that a loop does: forward, loss, backward, update, checks, logging. open_clip's reader is repaired
as in input_pipeline.
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from open_clip.loss import ClipLoss
from open_clip_train.train import train_one_epoch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import input_pipeline
from benchmarks.pictures import write_shards
from benchmarks.turns import InTurn, Timed, ratio
from mcl_clip.loading.augment import train_transform
from mcl_clip.loading.loader import GlobalBatchLoader
from mcl_clip.loading.micro_batch import MicroBatch
from mcl_clip.loading.normalize import Normalize
from mcl_clip.openclip.flags import parse_args
from mcl_clip.openclip.precision import get_autocast
from mcl_clip.openclip.schedules import cosine_lr
from mcl_clip.plan.segments import SegmentLayout
from mcl_clip.shards.index import index_sources
from training.arithmetic import pixel_dtype
from training.arrows.stage import StageTraining
from training.build import build_base, lock
from training.optimizer import make_scaler
from training.preemption import Preemption
from training.ranks import Ranks
from training.reporting import Trackers
from training.resolve import parse_recipe, resolve
from training.validation import Validation

LOCKS: dict[str, Any] = {
    "lock_text": True,
    "lock_text_freeze_layer_norm": True,
    "lock_image": True,
    "lock_image_unlocked_groups": 4,
}
TINY_VIT = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 224, "layers": 4, "width": 64, "head_width": 32, "patch_size": 32},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}


def main(arguments: list[str] | None = None) -> int:
    """Print samples a second of both loops and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--model", default="", help="an open_clip name; default a tiny ViT on 224 x 224 pixels")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", help="open_clip's --precision")
    parser.add_argument(
        "--objective", default="clip", choices=["clip", "simclr"], help="simclr: on views, against lightly's loop"
    )
    parser.add_argument("--batch-size", type=int, help="(default 64; simclr 256)")
    parser.add_argument("--steps", type=int, help="steps of a turn (default 25; simclr 3)")
    parser.add_argument("--rounds", type=int, help="turns of each loop, the median counts (default 5; simclr 2)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--shards", type=int, default=4, help="shards of 256 samples for the end-to-end turns")
    parser.add_argument("--skip-end-to-end", action="store_true")
    parser.add_argument("--locked", action="store_true", help="as `LOCKS`, and ours without the text cache too")
    parser.add_argument("--peak-tflops", type=float, help="of the device at this precision, for its utilisation")
    options = parser.parse_args(arguments)
    batch_size, steps, rounds = (64, 25, 5) if options.objective == "clip" else (256, 3, 2)  # steps of 15 s
    options.batch_size = options.batch_size or batch_size
    options.steps, options.rounds = options.steps or steps, options.rounds or rounds
    with tempfile.TemporaryDirectory(prefix="train_step-") as folder:
        if options.objective == "clip":
            result = Comparison(options, Path(folder)).run()
        else:
            from benchmarks.train_step_views import measure_views

            result = measure_views(options, Path(folder))
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))
    return 0


class Comparison:
    """Both loops on the same batches."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.model = options.model
        if not self.model:
            architecture = folder / "architecture"
            architecture.mkdir()
            (architecture / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY_VIT}))
            self.model = f"local-dir:{architecture}"
        place = ("--train-data", str(folder), "--logs", str(folder), "--model", self.model, "--mcl-base", "train")
        size = ("--batch-size", str(options.batch_size), "--epochs", "1", "--save-frequency", "0")
        step = ("--precision", options.precision, "--lr", "1e-4", "--warmup", "5", "--beta2", "0.98", "--eps", "1e-6")
        flags, overrides = parse_recipe([*place, *size, *step])
        self.recipe = resolve(flags, overrides, name="run", world_size=1)
        if options.locked:  # the flags are refused for new weights
            self.recipe = replace(self.recipe, stages=(replace(self.recipe.stages[0], **LOCKS),))
        self.device = torch.device(options.device)
        self.turn = 0

    def run(self) -> dict:
        """Rates of the loops by turns, and their ratios."""
        options = self.options
        images = torch.randn(options.batch_size, 3, *self._image_size(), device=self.device)
        texts = torch.randint(1, 49000, (options.batch_size, self._build().model.context_length), device=self.device)
        as_they_are = Normalize((0,), (1,), pixel_dtype(options.precision, self.device))
        batches = [(images, texts)] * options.steps

        def ours(vectors: torch.Tensor | None) -> InTurn:
            mine = self._micro_batches(batches, vectors)
            return InTurn(mine, options.steps, options.batch_size, as_they_are, vectors is not None)

        vectors = self._vectors(texts) if options.locked else None
        more = {"without_cache": lambda: ours(None)} if options.locked else {}
        rates = self._by_turns(lambda: ours(vectors), lambda: Timed(batches), **more)
        result = {
            "ours_samples_per_s": round(statistics.median(rates["ours"]), 1),
            "open_clip_samples_per_s": round(statistics.median(rates["open_clip"]), 1),
            **ratio("ratio", rates["ours"], rates["open_clip"]),
        }
        for name, others in list(rates.items())[2:]:
            result[f"{name}_samples_per_s"] = round(statistics.median(others), 1)
            result |= ratio(f"ratio_to_{name}", rates["ours"], others)
        if not options.skip_end_to_end:
            result |= self._end_to_end()
        result |= self._flops(images, texts, result["ours_samples_per_s"])
        place = {"cores": torch.get_num_threads(), "torch": torch.__version__}
        settings = {name: value for name, value in vars(options).items() if name != "json"}
        return result | settings | place

    def _end_to_end(self) -> dict:
        options = self.options
        shards = argparse.Namespace(shards=options.shards, shard_size=256, seed=0)
        paths = write_shards(shards, self.folder)
        manifest = index_sources(paths, self.folder / "index")
        steps = manifest.num_samples // options.batch_size
        built = self._build()
        loader = GlobalBatchLoader(
            manifest,
            seed=0,
            stage=0,
            batch_size=options.batch_size,
            transform=train_transform(built.preprocess_cfg),
            tokenizer=built.tokenizer,
            workers=options.workers,
            device=self.device,
            dtype=pixel_dtype(options.precision, self.device),
        )
        reading = argparse.Namespace(**vars(options), seed=0)
        open_clips = input_pipeline._open_clips(paths, manifest.num_samples, reading, built.tokenizer)

        def ours() -> InTurn:
            loader.set_epoch(self.turn)
            return InTurn(loader, steps, options.batch_size, loader.normalize)

        def theirs() -> Timed:
            open_clips.set_epoch(self.turn)
            return Timed(open_clips.dataloader)

        rates = self._by_turns(ours, theirs)
        return {
            "end_to_end_samples_per_s": round(statistics.median(rates["ours"]), 1),
            "open_clip_end_to_end_samples_per_s": round(statistics.median(rates["open_clip"]), 1),
            **ratio("end_to_end_ratio", rates["ours"], rates["open_clip"]),
        }

    def _by_turns(self, ours, theirs, **more) -> dict[str, list[float]]:
        """Rates of our loop, of theirs, and of ours on `more`."""
        rates: dict[str, list[float]] = {name: [] for name in ("ours", "open_clip", *more)}
        for turn in range(self.options.rounds + 1):
            self.turn = turn
            order = [("ours", ours, self._train_ours), ("open_clip", theirs, self._train_theirs)]
            order += [(name, batches, self._train_ours) for name, batches in more.items()]
            for name, batches, train in order if turn % 2 else reversed(order):
                timed = batches()
                train(timed)
                if turn:
                    rates[name].append(timed.rate(self.options.batch_size))
        return rates

    def _train_ours(self, batches: InTurn) -> None:
        StageTraining(
            recipe=self.recipe,
            stage=0,
            built=self._build(),
            loader=batches,  # type: ignore[arg-type]
            directory=self.folder / f"turn_{self.turn}" / str(time.monotonic_ns()),
            ranks=Ranks(device=self.device),
            preemption=Preemption(),
            trackers=Trackers(self.recipe, {}),
            validation=Validation(self.recipe, None, self.device),
            made_from={},
        ).run()

    def _train_theirs(self, batches: Timed) -> None:
        model = self._build().model
        lock(model, self.recipe.stages[0])  # by open_clip's own methods
        args = parse_args(
            ["--model", self.model, "--precision", self.options.precision, "--device", self.options.device]
        )
        derived = {"distill": False, "rank": 0, "local_rank": 0, "world_size": 1, "distributed": False, "wandb": False}
        vars(args).update(derived, batch_size=self.options.batch_size)
        exclude = [p for n, p in model.named_parameters() if p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n]
        spared = {id(parameter) for parameter in exclude}
        rest = [p for p in model.parameters() if id(p) not in spared]
        groups = [{"params": exclude, "weight_decay": 0.0}, {"params": rest, "weight_decay": 0.2}]
        optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.98), eps=1e-6)
        count = self.options.steps
        loader = _Loader(batches, count, count * self.options.batch_size)
        data = {"train": SimpleNamespace(dataloader=loader, set_epoch=lambda epoch: None)}
        scaler = make_scaler(self.options.precision, self.device)
        schedule = cosine_lr(optimizer, 1e-4, 5, count)
        train_one_epoch(model, data, ClipLoss(), 0, optimizer, scaler, schedule, None, args)

    @torch.inference_mode()
    def _vectors(self, texts: torch.Tensor) -> torch.Tensor:
        with get_autocast(self.options.precision, device_type=self.device.type)():
            return self._build().model.encode_text(texts, normalize=True)

    def _micro_batches(self, batches, vectors: torch.Tensor | None) -> list[MicroBatch]:
        keys = [f"00000/{place:09d}" for place in range(self.options.batch_size)]
        layout = SegmentLayout.one(self.options.batch_size)
        steps = enumerate(batches)
        return [MicroBatch(images, texts, keys, layout, step, 0, (), vectors) for step, (images, texts) in steps]

    def _build(self):
        return build_base(self.recipe.model, self.options.precision, 0, self.device)

    def _image_size(self) -> tuple[int, int]:
        size = self._build().model.visual.image_size
        return size if isinstance(size, tuple) else (size, size)

    def _flops(self, images, texts, rate: float) -> dict:
        """Operations of the towers, forward and backward, and the share of the device's that they use."""
        model: nn.Module = self._build().model
        with FlopCounterMode(display=False) as counter:
            output = model(images[:1].float(), texts[:1])
            (output["image_features"].sum() + output["text_features"].sum()).backward()
        tera = counter.get_total_flops() * rate / 1e12
        used = {"flops_utilisation": round(tera / self.options.peak_tflops, 4)} if self.options.peak_tflops else {}
        return {"tflops_per_s": round(tera, 4), **used}


class _Loader:
    """What open_clip's loop asks of a data loader."""

    def __init__(self, batches: Timed, num_batches: int, num_samples: int) -> None:
        self.batches, self.num_batches, self.num_samples = batches, num_batches, num_samples

    def __iter__(self):
        return iter(self.batches)


if __name__ == "__main__":
    raise SystemExit(main())
