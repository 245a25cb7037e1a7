"""Where progress is told: the console, out.log, JSON lines, and optionally TensorBoard and Weights & Biases."""

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm.contrib.logging import logging_redirect_tqdm

from mcl_clip.artifacts import atomic_path
from mcl_clip.errors import UserError
from training.ranks import Ranks
from training.recipe import Recipe

log = logging.getLogger("mcl_clip.training")


@contextlib.contextmanager
def logging_to(recipe: Recipe, ranks: Ranks) -> Iterator[None]:
    """Send log lines to the console and the run directory, on the first rank (with --log-local of every machine)."""
    speaks = ranks.local_rank == 0 if recipe.reporting.log_local else ranks.is_first
    handlers: list[logging.Handler] = []
    if speaks:
        name = f"out-{ranks.rank}.log" if recipe.reporting.log_local else "out.log"
        handlers = [logging.StreamHandler(), logging.FileHandler(recipe.run_directory / name)]
    else:
        handlers = [logging.NullHandler()]
    form = logging.Formatter("%(asctime)s | %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    before = (log.level, log.propagate)
    log.setLevel(logging.DEBUG if recipe.reporting.debug else logging.INFO)
    log.propagate = False
    for handler in handlers:
        handler.setFormatter(form)
        log.addHandler(handler)
    try:
        # The redirection would give a silent rank a console.
        with logging_redirect_tqdm([log]) if speaks else contextlib.nullcontext():
            yield
    finally:
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()
        log.setLevel(before[0])
        log.propagate = before[1]


class MetricsFile:
    """JSON lines, one object a logged step or evaluation, cut back to where a resumed stage goes on."""

    def __init__(self, path: Path, keep: Callable[[Mapping[str, Any]], bool]) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if _keeps(line, keep)]
            with atomic_path(path) as temporary:
                temporary.write_text("".join(line + "\n" for line in kept))

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one object."""
        with open(self.path, "a") as file:
            file.write(json.dumps(row) + "\n")


class Trackers:
    """TensorBoard and Weights & Biases, where --report-to names them; neither is needed otherwise."""

    def __init__(self, recipe: Recipe, settings: Mapping[str, Any]) -> None:
        wanted = recipe.reporting.report_to
        self._board: Any = None
        self._wandb: Any = None
        if "tensorboard" in wanted or "all" in wanted:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise UserError("--report-to tensorboard: it is not installed; pip install tensorboard") from None
            self._board = SummaryWriter(str(recipe.run_directory / "tensorboard"))
        if "wandb" in wanted or "all" in wanted:
            try:
                import wandb
            except ImportError:
                raise UserError("--report-to wandb: it is not installed; pip install wandb") from None
            self._wandb = wandb
            wandb.init(
                project=recipe.reporting.wandb_project_name,
                name=recipe.name,
                id=recipe.name,
                notes=recipe.reporting.wandb_notes,
                resume="allow",
                dir=os.fspath(recipe.run_directory),
                config=dict(settings),
            )

    def write(self, prefix: str, row: Mapping[str, Any], step: int) -> None:
        """Record the numbers of `row` as `prefix/name`."""
        numbers = {f"{prefix}/{name}": value for name, value in row.items() if isinstance(value, (int, float))}
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log({**numbers, f"{prefix}/step": step})

    def close(self) -> None:
        """Write out what is buffered."""
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def _keeps(line: str, keep: Callable[[Mapping[str, Any]], bool]) -> bool:
    """A line cut short by a kill is dropped."""
    try:
        return keep(json.loads(line))
    except json.JSONDecodeError:
        return False
