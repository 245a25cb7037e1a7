"""Ours against open_clip_train's own loop, on the same batches; and our loader and loss inside that loop."""

from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from open_clip_train.main import random_seed
from open_clip_train.train import train_one_epoch
from torch import nn

from mcl_clip.loading.augment import train_transform
from mcl_clip.loading.loader import GlobalBatchLoader
from mcl_clip.loading.open_clip_data import for_open_clip
from mcl_clip.loss import MCLClipLoss
from mcl_clip.openclip.flags import parse_args
from mcl_clip.openclip.models import create_model
from mcl_clip.openclip.schedules import const_lr, cosine_lr
from mcl_clip.plan.policy import Policy
from mcl_clip.shards.manifest import Manifest
from tests.data import labelled
from tests.host import of_open_clip_3
from tests.tiny_runs import command, losses
from training.main import main

pytestmark = of_open_clip_3("its loop trains tasks; train_one_epoch no longer takes a model and a loss")
EPOCHS, STEPS = 7, 56


class Recorded(nn.Module):
    """A loss that remembers its values."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss, self.values = loss, []

    def forward(self, *args, **kwargs):
        result = self.loss(*args, **kwargs)
        self.values.append(sum(result.values()).item())
        return result


class Batches(list):
    """A list of batches with what open_clip's loop asks of a data loader and its data set."""

    num_batches = property(len)
    num_samples = property(lambda self: 16 * len(self))
    dataloader = property(lambda self: self)

    def set_epoch(self, epoch: int) -> None:
        pass


def open_clip_arguments(model: str, **changes):
    args = parse_args(["--model", model, "--precision", "fp32", "--device", "cpu", "--log-every-n-steps", "1000"])
    derived = {"distill": False, "rank": 0, "local_rank": 0, "world_size": 1, "distributed": False, "wandb": False}
    for name, value in (derived | changes).items():
        setattr(args, name, value)
    return args


def open_clip_model(name: str, seed: int = 0):
    random_seed(seed, 0)
    model, _, _ = open_clip.create_model_and_transforms(name, precision="fp32", device="cpu", output_dict=True)
    return model


def open_clip_optimizer(model, lr, wd=0.2):
    """As in open_clip_train.main."""
    exclude = lambda n, p: p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n or "logit_scale" in n  # noqa: E731
    named = list(model.named_parameters())
    return torch.optim.AdamW(
        [
            {"params": [p for n, p in named if exclude(n, p)], "weight_decay": 0.0},
            {"params": [p for n, p in named if not exclude(n, p)], "weight_decay": wd},
        ],
        lr=lr,
        betas=(0.9, 0.98),
        eps=1e-6,
    )


def loader_of(tmp_path: Path, model, manifest=None, **changes) -> GlobalBatchLoader:
    return GlobalBatchLoader(
        manifest or Manifest.load(tmp_path / "runs/run/source"),
        **{"seed": 0, "stage": 0, "batch_size": 16, "policy": Policy(min_segment=4)} | changes,
        transform=train_transform(model.visual.preprocess_cfg),
        tokenizer=open_clip.get_tokenizer("ViT-B-32", context_length=16),
    )


@pytest.mark.parametrize(
    ("flags", "changes"),
    [
        ([], {}),
        (["--grad-clip-norm", "0.5", "--lr-scheduler", "const", "--wd", "0.05"], {"grad_clip_norm": 0.5}),
        (["--siglip"], {}),
        (["--precision", "amp_bf16"], {"precision": "amp_bf16"}),
    ],
    ids=["plain", "clipped", "siglip", "amp_bf16"],
)
def test_no_stages_is_open_clips_loop_step_for_step(tmp_path, flags, changes):
    arguments = command(tmp_path, "--epochs", str(EPOCHS), *flags)
    assert main(arguments) == 0
    ours = losses(tmp_path)

    siglip = "--siglip" in flags
    name = f"local-dir:{tmp_path}/architecture"
    random_seed(0, 0)
    start = {"init_logit_scale": torch.tensor(10.0).log().item(), "init_logit_bias": -10} if siglip else {}
    model = create_model(name, output_dict=True, **start)
    args = open_clip_arguments(name, accum_freq=1, batch_size=16, **changes)
    optimizer = open_clip_optimizer(model, 1e-3, 0.05 if "--wd" in flags else 0.2)
    schedule = (const_lr if "const" in flags else cosine_lr)(optimizer, 1e-3, 4, STEPS)
    loader = loader_of(tmp_path, model)
    epochs = []
    for epoch in range(EPOCHS):
        loader.set_epoch(epoch)
        epochs.append([(loader.normalize(batch.images), batch.texts) for batch in loader])
    loss = Recorded(SigLipLoss() if siglip else ClipLoss())
    for epoch in range(EPOCHS):
        train_one_epoch(model, {"train": Batches(epochs[epoch])}, loss, epoch, optimizer, None, schedule, None, args)

    assert len(ours) == len(loss.values) == STEPS
    tolerance = 3e-3 if changes.get("precision") else 1e-4
    assert ours[:50] == pytest.approx(loss.values[:50], rel=tolerance)
    assert ours[49] < ours[0]


@pytest.mark.parametrize("accum_freq", [1, 2])
def test_our_loader_and_loss_run_inside_open_clips_loop(tmp_path, accum_freq):
    assert main(command(tmp_path, "--epochs", "1")) == 0
    name = f"local-dir:{tmp_path}/architecture"
    model = open_clip_model(name)
    manifest = labelled(tmp_path / "runs/run/source", ["0", "1", "2"])
    loader = loader_of(tmp_path, model, manifest, stage=1, batch_size=16 // accum_freq, accum_freq=accum_freq)
    loss = Recorded(MCLClipLoss())
    data, laid_out = for_open_clip(loader, loss)
    seen = []
    loss.loss.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs["segments"]), with_kwargs=True)
    args = open_clip_arguments(name, accum_freq=accum_freq, batch_size=16 // accum_freq)
    optimizer = open_clip_optimizer(model, 1e-3)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    schedule = cosine_lr(optimizer, 1e-3, 1, loader.steps_per_epoch)
    train_one_epoch(model, {"train": data}, laid_out, 0, optimizer, None, schedule, None, args)

    loader.set_epoch(0)
    plan = [loader.plan_of(step)[1].layout(loader.plan_of(step)[2]) for step in range(loader.steps_per_epoch)]
    assert seen == [layout for layout in plan for _ in range(accum_freq)]
    assert any(len(layout.lengths) > 1 for layout in plan) and any(len(layout.lengths) == 1 for layout in plan)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(torch.isfinite(torch.tensor(loss.values)))
