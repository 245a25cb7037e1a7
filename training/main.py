"""`python -m training.main`, `mcl-train`, or under torchrun: all stages and the fused model in one job."""

import sys
from collections.abc import Sequence
from datetime import datetime

from torch.distributed.elastic.multiprocessing.errors import record

from mcl_clip.launch import take_slurm
from training import health, preemption
from training.endings import end, say
from training.pipeline import run
from training.ranks import Ranks, join, leave
from training.resolve import parse_recipe, resolve


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0: all done. 1: another rank failed, which says why. 2: a mistake in flags or input, a full disk, a killed reader.
    3: the loss became NaN or infinite. 75: ended by SIGTERM or SIGUSR1, everything saved; the same command goes on.
    May be called several times in one process.
    """
    take_slurm()
    ranks: Ranks | None = None
    try:
        flags, overrides = parse_recipe(sys.argv[1:] if arguments is None else arguments)
        with preemption.Preemption() as signals:
            ranks = join(flags.device, flags.dist_backend, flags.dist_url, flags.no_set_device_rank)
            name = flags.name or ranks.share(lambda: _default_name(flags))
            run(resolve(flags, overrides, name=name, world_size=ranks.world_size), ranks, signals)
            leave(ranks)
        return 0
    except health.NonFiniteLoss as error:
        if ranks is None or ranks.is_first_to_say("non-finite"):
            say(f"error: {error}")
        if ranks:
            ranks.lose(health.STATUS, error)
        return health.STATUS
    except preemption.Preempted:
        if ranks is None or ranks.is_first:
            say("ended by a signal; everything is saved, the same command goes on from here")
        return preemption.STATUS
    except Exception as error:
        return end(ranks, error)


def _default_name(flags) -> str:
    """As open_clip names a run; such a run cannot be resumed by the same command, which would be named anew."""
    parts = (f"model_{flags.model.replace('/', '-')}", f"lr_{flags.lr}", f"b_{flags.batch_size}")
    return "-".join(
        (datetime.now().strftime("%Y_%m_%d-%H_%M_%S"), *parts, f"j_{flags.workers}", f"p_{flags.precision}")
    )


if __name__ == "__main__":
    sys.exit(record(main)())
