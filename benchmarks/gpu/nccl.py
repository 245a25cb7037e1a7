"""One rank of NCCL: the collectives that training uses, by value, and DDP's gradient against none."""

import argparse
import json

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mcl_clip.loss.gather import gather_all, gather_with_gradient


def main(arguments: list[str] | None = None) -> int:
    """Print what agreed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="nccl", choices=["nccl", "gloo"])
    options = parser.parse_args(arguments)
    device = torch.device("cuda", 0) if options.backend == "nccl" else torch.device("cpu")
    dist.init_process_group(options.backend, store=dist.HashStore(), rank=0, world_size=1)
    values = torch.randn(64, 32, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
    # Of one rank the functions return early; the collective itself is what is tried.
    gathered = torch.empty_like(values)
    dist.all_gather_into_tensor(gathered, values.detach())
    summed = values.detach().clone()
    dist.all_reduce(summed)
    agree = {
        "all_gather": torch.equal(gathered, values),
        "all_reduce": torch.equal(summed, values),
        "gather_all": torch.equal(gather_all(values, 1), values),
        "gather_with_gradient": torch.equal(gather_with_gradient(values, 1), values),
        "ddp_gradient": _gradients_agree(values.detach(), device),
    }
    dist.destroy_process_group()
    print(json.dumps({"backend": options.backend, **agree}))
    return int(not all(agree.values()))


def _gradients_agree(values: torch.Tensor, device: torch.device) -> bool:
    plain = nn.Linear(32, 8).to(device)
    wrapped = DistributedDataParallel(nn.Linear(32, 8).to(device))
    wrapped.module.load_state_dict(plain.state_dict())
    for model in (plain, wrapped):
        model(values).square().sum().backward()
    pairs = zip(plain.parameters(), wrapped.module.parameters(), strict=True)
    return all(torch.allclose(a.grad, b.grad) for a, b in pairs if a.grad is not None and b.grad is not None)


if __name__ == "__main__":
    raise SystemExit(main())
