"""Training of one stage, from its first weights or its last checkpoint to its finished model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mcl_clip.artifacts import write_json
from mcl_clip.left_out import Record, add, line
from mcl_clip.loading.loader import GlobalBatchLoader
from mcl_clip.loading.micro_batch import MicroBatch
from mcl_clip.models.checkpoints import latest_checkpoint, load_checkpoint, save_checkpoint
from mcl_clip.plan.left_out import left_out
from mcl_clip.world import appears
from training.agreement import Agreement
from training.arrows.saving import SaveClock, save_built
from training.arrows.text_vectors import with_vectors
from training.build import BuiltModel, lock, seeded, wrap
from training.health import LossGuard, check_weights
from training.objectives import learner_of
from training.optimizer import make_optimizer, make_scaler, make_schedule
from training.preemption import Preempted, Preemption
from training.ranks import Ranks
from training.recipe import Recipe
from training.reporting import MetricsFile, Trackers, log
from training.run_directory import refuse_foreign
from training.step import TrainingStep
from training.validation import Validation
from training.window import Window


@dataclass
class StageTraining:
    """Everything one stage trains with.

    `made_from` names what its model is made of; a checkpoint of anything else is refused.
    """

    recipe: Recipe
    stage: int
    built: BuiltModel
    loader: GlobalBatchLoader
    directory: Path
    ranks: Ranks
    preemption: Preemption
    trackers: Trackers
    validation: Validation
    made_from: Mapping[str, Any]

    def __post_init__(self) -> None:
        settings, optimization = self.recipe.stages[self.stage], self.recipe.optimization
        self.core = self.built.model
        lock(self.core, settings)
        self.learner = learner_of(self.recipe, self.built, self.loader.plans[0], self.ranks)
        if optimization.grad_checkpointing:
            self.core.set_grad_checkpointing()
        self.optimizer = make_optimizer(self.core, optimization, settings.lr)
        self.scaler = make_scaler(optimization.precision, self.ranks.device)
        self.accum = self.recipe.data.accum_freq
        self.steps_per_epoch = len(self.loader) // self.accum
        self.total = self.steps_per_epoch * settings.epochs
        self.epochs = settings.epochs
        self.checkpoints = self.directory / "checkpoints"

    def run(self) -> None:
        """Train to the end and write the model. Raises `Preempted` after saving, `NonFiniteLoss`, `UserError`."""
        self.next_step = self._resume()
        self.clock = SaveClock(self.recipe.saving)
        self.guard = LossGuard(self.directory, self.stage, self.ranks.rank)
        self.window = Window(self.recipe, self.stage, self.steps_per_epoch, self.total, self.ranks, self.next_step)
        if self.ranks.is_first:
            self.metrics = MetricsFile(self.directory / "metrics.jsonl", lambda row: row["step"] < self.next_step)
            completed = self.next_step // self.steps_per_epoch
            self.scores = MetricsFile(self.directory / "validation.jsonl", lambda row: row["epoch"] <= completed)
            self.trackers.begin(f"stage_{self.stage}", self.next_step)
        self._log_start()
        step = self._training_step()
        agreement = Agreement(self.ranks)
        bar = tqdm(
            total=self.total, initial=self.next_step, desc=f"stage {self.stage}", unit="step",
            disable=None if self.ranks.is_first else True, leave=False,
        )  # fmt: skip
        # Every step sets torch's generators; outside they are what they were.
        with seeded(self.recipe.seed, self.ranks.device), self.preemption.deferred(), bar:
            if self.next_step and self.next_step % self.steps_per_epoch == 0:
                self._validate()
            for epoch in range(self.next_step // self.steps_per_epoch, self.epochs):
                self._epoch(epoch, step, agreement, bar)
            agreement.close()
            self._finish()
        if self.preemption.requested:
            raise Preempted

    def _training_step(self) -> TrainingStep:
        settings, optimization = self.recipe.stages[self.stage], self.recipe.optimization
        return TrainingStep(
            wrap(with_vectors(self.learner.model.train(), self.loader), optimization, self.ranks),
            self.core,
            self.learner,
            self.optimizer,
            make_schedule(self.optimizer, optimization, settings, self.steps_per_epoch),
            self.scaler,
            self.loader.normalize,
            precision=optimization.precision,
            grad_clip_norm=optimization.grad_clip_norm,
            entropy=(self.recipe.seed, self.stage),
            rank=self.ranks.rank,
            device=self.ranks.device,
        )

    def _epoch(self, epoch: int, step: TrainingStep, agreement: Agreement, bar: tqdm) -> None:
        self.loader.set_epoch(epoch)
        self.window.wait_begins()
        for batches in self._global_batches():
            self.window.wait_ends()
            result = step(self.next_step, batches)
            self.guard.add(self.next_step, result.loss, [key for batch in batches for key in batch.keys])
            self.window.add(batches)
            if self.window.is_due(self.next_step):
                self._report(epoch, result)
            self.next_step += 1
            bar.update()
            stop = agreement.any(self.preemption.requested)
            if stop:
                agreement.close()
                self._save()
                raise Preempted
            epoch_ends = self.next_step % self.steps_per_epoch == 0
            if epoch_ends:
                self._validate()
            if self.next_step == self.total:
                return
            if self.clock.is_due(self.next_step, epoch + 1 if epoch_ends else None):
                self._save()
            self.window.wait_begins()

    def _global_batches(self) -> Iterator[list[MicroBatch]]:
        """The micro-batches of every step."""
        gathered: list[MicroBatch] = []
        batches = iter(self.loader)
        while True:
            try:
                with self.preemption.excusing_workers():
                    batch = next(batches, None)
            except Preempted:
                self._save()
                raise
            if batch is None:
                return
            gathered.append(batch)
            if len(gathered) == self.accum:
                yield gathered
                gathered = []

    def _report(self, epoch: int, result: Any) -> None:
        # A rank's loss is its own part of the global one with --local-loss and --siglip.
        losses = self.ranks.mean(self.guard.take())
        row = self.window.close(epoch, self.next_step, losses, result)
        if self.ranks.is_first:
            self.metrics.write(row)
            self.trackers.write(row, self.next_step)
            log.info(self.window.line(row))

    def _validate(self) -> None:
        """Score the epochs completed, if that is due; whatever ends it, training is saved and a resumed run scores."""
        completed = self.next_step // self.steps_per_epoch
        if not self.validation.is_due(completed, self.epochs):
            return
        self.guard.check()
        try:
            with self.window.paused(), self.preemption.prompt(), self.preemption.excusing_workers():
                self.ranks.on_first(lambda: self._score(completed))
        except (Exception, Preempted):
            self._save()
            raise
        self.core.train()

    def _score(self, completed: int) -> None:
        if any(row["epoch"] == completed for row in self.scores.rows()):
            return
        row = self.validation.run(self.built, completed, self.epochs)
        log.info("  ".join(f"{name} {value:.4g}" for name, value in row.items()))
        self.trackers.write(row, self.next_step, prefix="val/")
        self.scores.write({"stage": self.stage, "epoch": completed, **row})

    def _save(self) -> None:
        """Weights and optimizer are the same on all ranks, so the first one saves alone and needs no agreement."""
        self.guard.check()
        if self.ranks.is_first:
            check_weights(self.core, self.stage, self.next_step)
            state = {
                "stage": self.stage,
                "made_from": dict(self.made_from),
                "model": self.core.state_dict(),
                "config": self.built.configuration,
                "objective": self.learner.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict() if self.scaler else None,
                "schedule": {"next_step": self.next_step, "total": self.total},
                "random": {"seed": self.recipe.seed, "stage": self.stage, "next_step": self.next_step},
                "plan": self.loader.state_dict(),
            }
            save_checkpoint(self.checkpoints, self.next_step, state, keep=self.recipe.saving.keep_checkpoints)
            log.info(f"stage {self.stage}: checkpoint after {self.next_step} of {self.total} steps")
        self.clock.saved()

    def _resume(self) -> int:
        """Load the newest checkpoint that the first rank sees, if any; returns the step to go on with."""
        newest = self.ranks.share(lambda: str(latest_checkpoint(self.checkpoints) or ""))
        if not newest:
            return 0
        path = appears(newest, self.ranks)
        state = load_checkpoint(path)
        refuse_foreign(path, state["made_from"], self.made_from)
        self.core.load_state_dict(state["model"])
        self.learner.load_state_dict(state.get("objective", {}))
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.loader.load_state_dict(state["plan"])
        return state["step"]

    def _log_start(self) -> None:
        trained = sum(p.numel() for p in self.core.parameters() if p.requires_grad)
        whole = sum(p.numel() for p in self.core.parameters())
        begun = f"going on at step {self.next_step}" if self.next_step else "from its first step"
        log.info(
            f"stage {self.stage}: {self.epochs} epochs of {self.steps_per_epoch} steps of "
            f"{self.recipe.data.global_batch} samples on {self.ranks.world_size} x {self.ranks.device.type}, "
            f"{trained:,} of {whole:,} parameters trained, {begun}"
        )
        plan = self.loader.plans[0]
        if told := line(left_out(plan), plan.num_samples):
            tell = log.warning if plan.num_dropped else log.info
            tell(f"stage {self.stage}: of {plan.num_samples:,} samples, in each pass: {told}")

    def _finish(self) -> None:
        self.guard.check()
        reading: Record = {}
        for record in self.ranks.gather(self.loader.faults.record()):
            add(reading, record)
        if self.ranks.is_first:
            if reading:
                log.warning(f"stage {self.stage}: samples, since the last start: {line(reading)}")
            write_json(self.directory / "left_out.json", {"plan": left_out(self.loader.plans[0]), "reading": reading})
            check_weights(self.core, self.stage, self.next_step)
            save_built(self.built, self.directory / "model", self.stage, self.made_from)
        self.ranks.barrier()
