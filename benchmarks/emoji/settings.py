"""Which artist and seeds are for choosing, what was tried there, and what was chosen."""

from typing import Any

from benchmarks.emoji.packages import ARTISTS
from benchmarks.study.settings import BASE, LONG, MCL, Settings

CHOOSING_ARTIST = "twemoji"
CHOOSING_SEEDS = tuple(range(100, 104))
CONFIRMING_ARTISTS = tuple(artist for artist in ARTISTS if artist != CHOOSING_ARTIST)
CONFIRMING_SEEDS = (1, 2, 3)

# Tried on the choosing artist and seeds; what is tried stays, with its result.
TRIES: dict[str, dict[str, Any]] = {
    "as a first look": {},
    "warm-up 200": {"warmup": 200},
    "mean of weights": {"warmup": 200, "average": 0.998},
    "mean of weights, moved pictures": {"warmup": 200, "average": 0.998, "shift": 2},
    "mean of weights, moved pictures, identical captions masked": {
        "warmup": 200,
        "average": 0.998,
        "shift": 2,
        "mask_identical": True,
    },
    "mean of weights, moved pictures, batch 512": {"warmup": 100, "average": 0.996, "shift": 2, "batch": 512},
    "mean of weights, moved pictures, twice as long": {"warmup": 200, "average": 0.998, "shift": 2, "epochs": 16},
    "mean of weights, moved pictures, half the rate": {
        "warmup": 200,
        "average": 0.998,
        "shift": 2,
        "lr": 5e-4,
        "long_lr": 5e-4,
        "mcl_lr": 5e-4,
    },
}
TRIED_ARMS = (BASE, LONG, MCL)
CHOSEN: Settings | None = None  # set, and committed, before the confirming artists are looked at
