"""What is changed on two of the study's seeds: views that hide colour, and real drawings."""

from dataclasses import replace

from benchmarks.images.drawings import ATTRIBUTES
from benchmarks.images.settings import CHOSEN, JITTERED, PLAIN, Settings
from benchmarks.images.trifeature import FEATURES
from benchmarks.study.models import Arm
from benchmarks.study.settings import BASE, CONTROLS, MCL

SEEDS = (1, 2)
ARMS = (BASE, *CONTROLS, MCL)
PLAINLY, COLOUR, EMOJI = "as the study", "colour jitter and gray", "emoji"
CHANGED: dict[str, Settings] = {
    PLAINLY: CHOSEN,
    COLOUR: replace(CHOSEN, augmentations=JITTERED),
    EMOJI: replace(CHOSEN, augmentations=replace(PLAIN, flip=0.0)),  # a flip hides the direction
}
SCORED = {PLAINLY: tuple(FEATURES), COLOUR: tuple(FEATURES), EMOJI: ATTRIBUTES}


def arms_of(ablation: str) -> list[Arm]:
    """Stage 0, the controls and MCL."""
    arms = CHANGED[ablation].arms()
    return [arms[name] for name in ARMS]
