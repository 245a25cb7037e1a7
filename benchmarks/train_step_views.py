"""Our training of SimCLR against lightly's own loop on the same decoded views, in turn in one run.

`python -m benchmarks.train_step --objective simclr`: ResNet-18 with the small stem at 32 pixels, batch 256. Theirs is
the loop of lightly's SimCLR example: the two views one after the other through backbone and SimCLRProjectionHead,
NTXentLoss, SGD with momentum.
"""

import argparse
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import timm
import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from torch import nn

from benchmarks.turns import InTurn, Timed, ratio
from mcl_clip.loading.micro_batch import MicroBatch
from mcl_clip.loading.normalize import Normalize
from mcl_clip.plan.segments import SegmentLayout
from training.arrows.stage import StageTraining
from training.objectives import objective_of
from training.preemption import Preemption
from training.ranks import Ranks
from training.reporting import Trackers
from training.resolve import parse_recipe, resolve
from training.validation import Validation

WARM = 1  # step of a turn
BACKBONE, SIZE, LR, MOMENTUM, TEMPERATURE = "mcl_resnet18_small", 32, 0.06, 0.9, 0.5


def measure_views(options: argparse.Namespace, folder: Path) -> dict:
    """Images a second, of which each has two views, of both loops; and the ratio."""
    device = torch.device(options.device)
    views = torch.randn(options.batch_size, 2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)).to(device)
    rates: dict[str, list[float]] = {"ours": [], "lightly": []}
    for turn in range(options.rounds):
        for name in ("ours", "lightly") if turn % 2 else ("lightly", "ours"):
            train = _train_ours if name == "ours" else _train_theirs
            rates[name].append(train(views, options, folder / f"{turn}-{name}"))
    return {
        "ours_samples_per_s": round(statistics.median(rates["ours"]), 1),
        "lightly_samples_per_s": round(statistics.median(rates["lightly"]), 1),
        **ratio("ratio", rates["ours"], rates["lightly"]),
        **{name: value for name, value in vars(options).items() if name != "json"},
        "cores": torch.get_num_threads(),
        "torch": torch.__version__,
        "lightly": version("lightly"),
    }


def _train_ours(views: torch.Tensor, options: argparse.Namespace, folder: Path) -> float:
    flags, overrides = parse_recipe(
        [
            *("--train-data", str(folder), "--logs", str(folder), "--device", options.device),
            *("--model", f"timm/{BACKBONE}", "--mcl-objective", "simclr", "--mcl-temperature", str(TEMPERATURE)),
            *("--precision", options.precision, "--batch-size", str(options.batch_size), "--epochs", "1"),
            *("--opt", "timm/momentum", "--lr", str(LR), "--momentum", str(MOMENTUM), "--wd", "0"),
            *("--skip-scheduler", "--save-frequency", "0"),
        ]
    )
    recipe = resolve(flags, overrides, name="run", world_size=1)
    keys = [f"00000/{place:09d}" for place in range(options.batch_size)]
    layout = SegmentLayout((options.batch_size,), (0,))
    batches = InTurn(
        [MicroBatch(views, torch.empty(len(views), 0), keys, layout, step, 0) for step in range(options.steps)],
        options.steps,
        options.batch_size,
        Normalize((0,), (1,)),
    )
    ranks = Ranks(device=views.device)
    StageTraining(
        recipe=recipe,
        stage=0,
        built=objective_of(recipe).build_base(views.device),
        loader=batches,  # type: ignore[arg-type]
        directory=folder / str(time.monotonic_ns()),
        ranks=ranks,
        preemption=Preemption(),
        trackers=Trackers(recipe, {}),
        validation=Validation(recipe, None, views.device),
        made_from={},
    ).run()
    return batches.rate(options.batch_size, WARM)


def _train_theirs(views: torch.Tensor, options: argparse.Namespace, folder: Path) -> float:
    backbone = timm.create_model(BACKBONE, num_classes=0)
    model = nn.Sequential(backbone, SimCLRProjectionHead(512, 512, 128)).to(views.device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    criterion = NTXentLoss(temperature=TEMPERATURE)
    batches = Timed([(views[:, 0].contiguous(), views[:, 1].contiguous())] * options.steps)
    total = torch.zeros((), device=views.device)
    for first, second in batches:
        loss = criterion(model(first), model(second))
        total += loss.detach()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    total.item()
    return batches.rate(options.batch_size, WARM)
