"""This rank's part of every global batch, as micro-batches ready for the towers."""

import signal
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader

from mcl_clip.errors import UserError
from mcl_clip.loading.augment import Transform
from mcl_clip.loading.dataset import Request, Samples, ShardDataset, Tokenizer
from mcl_clip.loading.faults import Faults
from mcl_clip.loading.normalize import Normalize
from mcl_clip.loading.readers import from_readers
from mcl_clip.plan.epochs import EpochPlans
from mcl_clip.plan.plan import Plan
from mcl_clip.plan.policy import Policy
from mcl_clip.plan.segments import SegmentLayout
from mcl_clip.shards.manifest import Manifest
from mcl_clip.shards.pool import START_METHOD

VERSION = 1


@dataclass(frozen=True)
class MicroBatch:
    """One rank's part of one accumulation step.

    images: [b, 3, H, W] normalised, on the device; texts: int64 [b, context], on the device; keys: "source
    shard/key"; layout: of the WHOLE global batch; step: of the epoch; micro: of the accumulation, from
    0; missing: positions of the WHOLE global batch that hold no sample and must not count (see `loss.missing`).
    """

    images: torch.Tensor
    texts: torch.Tensor
    keys: list[str]
    layout: SegmentLayout
    step: int
    micro: int
    missing: tuple[int, ...] = ()


class GlobalBatchLoader:
    """Iterates an epoch's micro-batches of one rank; `set_epoch` before each epoch.

    The global batch G is batch_size x accum_freq x world_size; what is in global batch t depends on
    (manifest, seed, stage, G, policy) and not on how G is split, nor on `workers`. An epoch is one pass over
    the data, or `num_samples` samples rounded up to whole global batches, wherever in a pass that ends.
    Unreadable samples are replaced by others of their pseudo-label, or where there is none, missing: `union` gives the
    positions that are missing on any rank. `faults` gathers them; `UserError` when they are more than the share
    `max_faults` of the samples. Of several captions of a sample one is drawn an epoch, by `caption_probs` of the keys
    (see `captions.draw_caption`).
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        seed: int,
        stage: int,
        batch_size: int,
        transform: Transform,
        tokenizer: Tokenizer,
        accum_freq: int = 1,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        policy: Policy | None = None,
        num_samples: int | None = None,
        caption_probs: Sequence[float] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        max_faults: float = 0.001,
        union: Callable[[list[int]], list[int]] = sorted,
    ):
        self.manifest, self.batch_size, self.accum_freq, self.rank = manifest, batch_size, accum_freq, rank
        self.global_batch = batch_size * accum_freq * world_size
        self.plans = EpochPlans(
            manifest.label_paths,
            manifest.shard_label,
            manifest.shard_size,
            seed,
            stage,
            self.global_batch,
            policy or Policy(),
            manifest.shard_repeats,
        )
        self.num_batches = len(self.plans[0])
        self.steps_per_epoch = -(-num_samples // self.global_batch) if num_samples else self.num_batches
        self.device, self.union = torch.device(device), union
        self.normalize = Normalize(transform.mean, transform.std, dtype, channels_last).to(self.device)
        self.epoch = self.step = 0
        self.faults = Faults(max_faults, manifest.num_samples, world_size)
        self._loader = DataLoader(
            ShardDataset(manifest, self.plans, transform, tokenizer, caption_probs),
            sampler=_Requests(self),
            batch_size=None,
            num_workers=workers,
            multiprocessing_context=START_METHOD if workers else None,
            persistent_workers=workers > 0,
            prefetch_factor=2 if workers else None,
            worker_init_fn=_ignore_preemption,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator().manual_seed(0),  # or it would draw from the global one
        )
        # Also when Python ends first, whose way to end readers is the signal that they ignore.
        weakref.finalize(self, _end_readers, self._loader)

    def __len__(self) -> int:
        """Micro-batches of a whole epoch on this rank."""
        return self.steps_per_epoch * self.accum_freq

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; in the current one, go on after the last step taken or loaded."""
        if epoch != self.epoch:
            self.epoch, self.step = epoch, 0

    def plan_of(self, step: int) -> tuple[int, Plan, int]:
        """(pass over the data, its plan, batch t in it) of a step of the current epoch."""
        data_pass, t = divmod(self.epoch * self.steps_per_epoch + step, self.num_batches)
        return data_pass, self.plans[data_pass], t

    def __iter__(self) -> Iterator[MicroBatch]:
        step = self.step
        parts: list[Samples] = []
        for samples in from_readers(self._loader):
            self.faults.add(samples)
            if samples.error:
                raise UserError(samples.error)
            parts.append(samples)
            if len(parts) == self.accum_freq:
                yield from self._micro_batches(step, parts)
                step, parts = step + 1, []
        self.epoch, self.step = self.epoch + 1, 0

    def _micro_batches(self, step: int, parts: list[Samples]) -> Iterator[MicroBatch]:
        """This rank's part of a global batch, all of it read, since all its layouts depend on what is missing."""
        _, plan, t = self.plan_of(step)
        layout, start = plan.layout(t), self.rank * self.batch_size * self.accum_freq
        lost = [start + micro * self.batch_size + at for micro, part in enumerate(parts) for at in part.missing]
        missing = tuple(self.union(lost))
        if len(missing) == self.global_batch:
            raise UserError("no sample of a whole global batch can be read; check the data with mcl-shards verify")
        for micro, part in enumerate(parts):
            images = self.normalize(part.images.to(self.device, non_blocking=True))
            texts = part.texts.to(self.device, non_blocking=True)
            self.step = step + (micro == self.accum_freq - 1)
            yield MicroBatch(images, texts, part.keys, layout, step, micro, missing)

    def state_dict(self) -> dict[str, Any]:
        """Where the run stands in the data, in plain values; the same on every rank."""
        return {
            "version": VERSION,
            "manifest": self.manifest.hash,
            "seed": self.plans.seed,
            "stage": self.plans.stage,
            "global_batch": self.global_batch,
            "steps_per_epoch": self.steps_per_epoch,
            "policy": asdict(self.plans.policy),
            "epoch": self.epoch,
            "step": self.step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken; `UserError` with the reason when it is of another stream of batches.

        Ranks, workers and the split of G may have changed.
        """
        here = self.state_dict()
        for name, mend in _MENDS.items():
            if state.get(name) != here[name]:
                raise UserError(
                    f"the checkpoint was saved with {name} {state.get(name)}, but this run has {here[name]}: {mend}"
                )
        self.epoch, self.step = state["epoch"], state["step"]


_MENDS = {
    "version": "use the mcl_clip version that wrote it",
    "manifest": "the data has changed since; restore it, or start under another --name",
    "seed": "pass the same --seed",
    "stage": "it belongs to another stage",
    "global_batch": "choose --batch-size x --accum-freq x processes to give the same product",
    "steps_per_epoch": "pass the same --train-num-samples",
    "policy": "pass the same --mcl-leftovers, --mcl-min-segment, --mcl-lanes and --mcl-window",
}


def _ignore_preemption(_: int) -> None:
    """Pre-emption signals the whole process group, but the step in progress still needs its readers.

    A reader that dies makes PyTorch raise in its parent wherever that is, in an optimizer step or a save too. The
    loader ends its readers itself, and they end when their parent does.
    """
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def _end_readers(loader: DataLoader) -> None:
    if loader._iterator is not None:
        loader._iterator._shutdown_workers()  # type: ignore[attr-defined]


class _Requests:
    """What this rank asks its workers for, from the loader's next step to the epoch's end."""

    def __init__(self, loader: GlobalBatchLoader):
        self.loader = weakref.proxy(loader)  # a cycle would keep the workers alive after the loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Request]:
        loader = self.loader
        count = loader.batch_size * loader.accum_freq
        for step in range(loader.step, loader.steps_per_epoch):
            data_pass, plan, t = loader.plan_of(step)
            start = loader.rank * count
            shard, ordinal = plan.positions(t, start, start + count)
            for low in range(0, count, loader.batch_size):
                part = slice(low, low + loader.batch_size)
                yield Request(data_pass, t, start + low, shard[part], ordinal[part])
