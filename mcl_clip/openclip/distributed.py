"""Joining the process group that torchrun or SLURM describes."""

from open_clip_train.distributed import init_distributed_device as init_distributed_device
from open_clip_train.distributed import init_distributed_device_so as init_distributed_device_so
