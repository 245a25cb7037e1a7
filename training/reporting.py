"""Where progress is told: the console, out.log, JSON lines, and optionally TensorBoard and Weights & Biases."""

import contextlib
import importlib.util
import json
import logging
import os
import uuid
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
    library = logging.getLogger("mcl_clip")  # the parent of ours
    before = (library.level, library.propagate)
    library.setLevel(logging.DEBUG if recipe.reporting.debug else logging.INFO)
    library.propagate = False
    for handler in handlers:
        handler.setFormatter(form)
        library.addHandler(handler)
    try:
        # The redirection would give a silent rank a console.
        with logging_redirect_tqdm([library]) if speaks else contextlib.nullcontext():
            yield
    finally:
        for handler in handlers:
            library.removeHandler(handler)
            handler.close()
        library.setLevel(before[0])
        library.propagate = before[1]


class MetricsFile:
    """JSON lines, one object a logged step or evaluation, cut back to where a resumed stage goes on."""

    def __init__(self, path: Path, keep: Callable[[Mapping[str, Any]], bool]) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if _keeps(line, keep)]
            with atomic_path(path) as temporary:
                temporary.write_text("".join(line + "\n" for line in kept))

    def rows(self) -> list[dict[str, Any]]:
        """All objects so far."""
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one object."""
        with open(self.path, "a") as file:
            file.write(json.dumps(row) + "\n")


class Trackers:
    """TensorBoard and Weights & Biases, where --report-to names them; neither is needed otherwise.

    A stage is a run of its own in TensorBoard, so that the stages' curves lie over each other, and a prefix of the
    names in Weights & Biases. Steps count from the stage's start. On a rank that is `silent` nothing is told.
    """

    def __init__(self, recipe: Recipe, settings: Mapping[str, Any], *, silent: bool = False) -> None:
        wanted = set() if silent else destinations(recipe.reporting.report_to)
        self._directory = recipe.run_directory / "tensorboard" if "tensorboard" in wanted else None
        self._board: Any = None
        self._wandb: Any = None
        self._name = "stage_0"
        if self._directory and importlib.util.find_spec("tensorboard") is None:
            raise UserError("--report-to tensorboard: it is not installed; pip install tensorboard")
        if "wandb" in wanted:
            try:
                import wandb
            except ImportError:
                raise UserError("--report-to wandb: it is not installed; pip install wandb") from None
            self._wandb = wandb
            wandb.init(
                project=recipe.reporting.wandb_project_name,
                name=recipe.name,
                id=_wandb_id(recipe.run_directory),
                notes=recipe.reporting.wandb_notes,
                resume="allow",
                dir=os.fspath(recipe.run_directory),
                config=dict(settings),
            )

    def begin(self, name: str, step: int) -> None:
        """`name`, a stage say, starts or goes on at `step`: TensorBoard hides what a killed run told from there on."""
        self._name = name
        if self._directory:
            from torch.utils.tensorboard import SummaryWriter

            self.close_board()
            self._board = SummaryWriter(str(self._directory / name), purge_step=step)
        if self._wandb is not None:
            self._wandb.define_metric(f"{name}/*", step_metric=f"{name}/step")

    def write(self, row: Mapping[str, Any], step: int, prefix: str = "") -> None:
        """Record the numbers of `row` at a step of the stage that was begun last."""
        numbers = {f"{prefix}{name}": value for name, value in row.items() if isinstance(value, (int, float))}
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            told = {f"{self._name}/{name}": value for name, value in numbers.items()}
            self._wandb.log({**told, f"{self._name}/step": step})

    def close_board(self) -> None:
        """Write out what TensorBoard's writer buffers."""
        if self._board is not None:
            self._board.close()
            self._board = None

    def close(self) -> None:
        """The run is over."""
        self.close_board()
        if self._wandb is not None:
            self._wandb.finish()


def _wandb_id(directory: Path) -> str:
    """Made once a run directory, which resumes it: another run of this name elsewhere is another one."""
    path = directory / ".wandb_id"
    if not path.exists():
        with atomic_path(path) as temporary:
            temporary.write_text(uuid.uuid4().hex)
    return path.read_text()


def destinations(report_to: str) -> set[str]:
    """What --report-to names: tensorboard, wandb, both by comma, or all; `UserError` for anything else."""
    wanted = {name.strip() for name in report_to.lower().split(",")} - {"", "none"}
    unknown = sorted(wanted - {"tensorboard", "wandb", "all"})
    if unknown:
        raise UserError(f"--report-to {unknown[0]} is not known; choose tensorboard, wandb or both by comma")
    return {"tensorboard", "wandb"} if "all" in wanted else wanted


def _keeps(line: str, keep: Callable[[Mapping[str, Any]], bool]) -> bool:
    """A line cut short by a kill is dropped."""
    try:
        return keep(json.loads(line))
    except json.JSONDecodeError:
        return False
