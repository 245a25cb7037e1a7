"""This rank's part of every global batch, as micro-batches ready for the towers."""

import math
import signal
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch.utils.data import DataLoader

from mcl_clip.errors import UserError
from mcl_clip.loading.augment import Transform
from mcl_clip.loading.dataset import Samples, ShardDataset, Tokenizer
from mcl_clip.loading.faults import Faults
from mcl_clip.loading.micro_batch import MicroBatch
from mcl_clip.loading.normalize import Normalize
from mcl_clip.loading.readers import from_readers
from mcl_clip.loading.requests import Requests, cut
from mcl_clip.loading.text_vectors import TextVectors
from mcl_clip.loading.transfer import Transfer
from mcl_clip.plan.epochs import EpochPlans
from mcl_clip.plan.plan import Plan
from mcl_clip.plan.policy import Policy, earlier_window
from mcl_clip.shards.manifest import Manifest
from mcl_clip.shards.pool import START_METHOD

VERSION = 1


class GlobalBatchLoader:
    """Iterates an epoch's micro-batches of one rank; `set_epoch` before each epoch. Readers go on into the next one.

    The global batch G is batch_size x accum_freq x world_size; what is in global batch t depends on
    (manifest, seed, stage, G, policy) and not on how G is split, nor on `workers`. An epoch is one pass over
    the data, or `num_samples` samples rounded up to whole global batches, wherever in a pass that ends.
    Unreadable samples are replaced by others of their pseudo-label, or where there is none, missing: `union` gives the
    positions that are missing on any rank. `faults` gathers them; `UserError` when they are more than the share
    `max_faults` of the samples. Of several captions of a sample one is drawn an epoch, by `caption_probs` of the keys
    (see `captions.draw_caption`). With `text_vectors` its vector comes with it.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        seed: int,
        stage: int,
        batch_size: int,
        transform: Transform,
        tokenizer: Tokenizer | None = None,
        accum_freq: int = 1,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        policy: Policy | None = None,
        num_samples: int | None = None,
        caption_probs: Sequence[float] | None = None,
        text_vectors: TextVectors | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        max_faults: float = 0.001,
        union: Callable[[list[int]], list[int]] = sorted,
    ):
        self.manifest, self.batch_size, self.accum_freq, self.rank = manifest, batch_size, accum_freq, rank
        self.global_batch = batch_size * accum_freq * world_size
        manifest.read_tables()  # before readers are forked, which would read them each for itself
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
        self._transfer = Transfer(self.device)
        self.text_vectors = text_vectors
        self.piece, prefetch = cut(batch_size, math.prod(transform.shape) * transform.dtype.itemsize, workers)
        self.faults = Faults(max_faults, manifest.num_samples, world_size)
        self._loader = DataLoader(
            ShardDataset(manifest, self.plans, transform, tokenizer, caption_probs, text_vectors),
            sampler=Requests(self),  # type: ignore[arg-type]
            batch_size=None,
            num_workers=workers,
            multiprocessing_context=START_METHOD if workers else None,
            persistent_workers=workers > 0,
            prefetch_factor=prefetch if workers else None,
            worker_init_fn=_ignore_preemption,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator().manual_seed(0),  # or it would draw from the global one
        )
        self._readers: Iterator[Samples] = iter(())
        self._readers_at: tuple[int, int] | None = None  # (epoch, step) of what they give next
        # Also when Python ends first, whose way to end readers is the signal that they ignore.
        weakref.finalize(self, _end_readers, self._loader)

    def __len__(self) -> int:
        """Micro-batches of a whole epoch on this rank."""
        return self.steps_per_epoch * self.accum_freq

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; in the current one, go on after the last step taken or loaded."""
        if epoch != self.epoch:
            self.epoch, self.step = epoch, 0

    def plan_of(self, step: int, epoch: int | None = None) -> tuple[int, Plan, int]:
        """(pass over the data, its plan, batch t in it) of a step of an epoch, by default the current one."""
        epoch = self.epoch if epoch is None else epoch
        data_pass, t = divmod(epoch * self.steps_per_epoch + step, self.num_batches)
        return data_pass, self.plans[data_pass], t

    def __iter__(self) -> Iterator[MicroBatch]:
        for batches in self._transfer.ahead(self._steps(self.epoch)):
            for batch in batches:
                self.step = batch.step + (batch.micro == self.accum_freq - 1)
                yield batch
        self.epoch, self.step = self.epoch + 1, 0

    def _steps(self, epoch: int) -> Iterator[list[MicroBatch]]:
        """This rank's part of every global batch, read whole, since all its layouts depend on what is missing."""
        if self._readers_at != (epoch, self.step):
            self._readers = from_readers(self._loader)
        for step in range(self.step, self.steps_per_epoch):
            self._readers_at = None
            parts = [self._part() for _ in range(self.accum_freq)]
            following = (epoch, step + 1) if step + 1 < self.steps_per_epoch else (epoch + 1, 0)
            self._readers_at = following
            yield self._micro_batches(epoch, step, parts)

    def _part(self) -> Samples:
        pieces = (self._piece() for _ in range(0, self.batch_size, self.piece))
        return self._transfer.join(pieces, self.batch_size, alone=self.accum_freq == 1)

    def _piece(self) -> Samples:
        piece = next(self._readers)
        self.faults.add(piece)
        if piece.error:
            raise UserError(piece.error)
        return piece

    def _micro_batches(self, epoch: int, step: int, parts: list[Samples]) -> list[MicroBatch]:
        _, plan, t = self.plan_of(step, epoch)
        start = self.rank * self.batch_size * self.accum_freq
        lost = [start + micro * self.batch_size + at for micro, part in enumerate(parts) for at in part.missing]
        missing = tuple(self.union(lost))
        if len(missing) == self.global_batch:
            raise UserError("no sample of a whole global batch can be read; check the data with mcl-shards verify")
        return [
            MicroBatch(part.images, part.texts, part.keys, plan.layout(t), step, micro, missing, part.vectors)
            for micro, part in enumerate(parts)
        ]

    def state_dict(self) -> dict[str, Any]:
        """Where the run stands in the data, in plain values; the same on every rank."""
        return {
            "version": VERSION,
            "manifest": self.manifest.hash,
            "seed": self.plans.seed,
            "stage": self.plans.stage,
            "global_batch": self.global_batch,
            "steps_per_epoch": self.steps_per_epoch,
            "policy": asdict(self.plans.policy.resolved(self.global_batch)),
            "epoch": self.epoch,
            "step": self.step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken; `UserError` with the reason when it is of another stream of batches.

        Ranks, workers and the split of G may have changed.
        """
        here = self.state_dict()
        if "policy" in state:
            state = {**state, "policy": self._go_on_with(state["policy"])}
            here = self.state_dict()
        for name, mend in _MENDS.items():
            if state.get(name) != here[name]:
                raise UserError(
                    f"the checkpoint was saved with {name} {state.get(name)}, but this run has {here[name]}: {mend}"
                )
        self.epoch, self.step = state["epoch"], state["step"]

    def _go_on_with(self, saved: dict[str, Any]) -> dict[str, Any]:
        """A saved policy in numbers; the default of its time stays that of the stage."""
        policy = Policy(**saved)
        if policy.window is None:
            window = earlier_window(int((self.plans[0].draws.size > 0).sum()))
            policy = replace(policy, window=window)
            if self.plans.policy.window is None:
                self.plans.go_on_with(replace(self.plans.policy, window=window))
        return asdict(policy.resolved(self.global_batch))


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
