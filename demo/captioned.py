"""The demo's pairs as other benchmarks would list them: captions for retrieval, SugarCrepe and Winoground."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from demo.captions import write_captions
from demo.features import NAMES
from mcl_clip import seeds

CAPTIONS = 3  # beside the streams of demo.data
RETRIEVED = 150
ALL = dict.fromkeys(NAMES, 1.0)


@dataclass(frozen=True)
class Drawn:
    """An image of the pairs by its path in their folder, and its row of value indices int64 [F]."""

    path: str
    values: np.ndarray


def write_captioned(directory: Path, drawn: Sequence[Drawn], seed: int) -> None:
    """`captions.json` as COCO's, `replace_att.json` as SugarCrepe's, `examples.jsonl` as Winoground's.

    A caption names every feature. Those of a pair have the same words but for the feature in which its images differ.
    """
    pairs = list(zip(drawn[::2], drawn[1::2], strict=True))
    own, other = (_captions([pair[side] for pair in pairs], seed, 0) for side in (0, 1))
    crepe = {
        str(number): {"filename": pair[0].path, "caption": caption, "negative_caption": negative}
        for number, (pair, caption, negative) in enumerate(zip(pairs, own, other, strict=True))
    }
    (directory / "replace_att.json").write_text(json.dumps(crepe))
    examples = [
        {"image_0": one.path, "image_1": two.path, "caption_0": caption, "caption_1": negative}
        for (one, two), caption, negative in zip(pairs, own, other, strict=True)
    ]
    (directory / "examples.jsonl").write_text("".join(json.dumps(each) + "\n" for each in examples))
    some = [pairs[place][0] for place in range(0, len(pairs), -(-len(pairs) // RETRIEVED))]
    annotations = [
        {"image_id": number, "caption": caption}
        for wording in (1, 2)
        for number, caption in enumerate(_captions(some, seed, wording))
    ]
    images = [{"id": number, "file_name": each.path} for number, each in enumerate(some)]
    (directory / "captions.json").write_text(json.dumps({"images": images, "annotations": annotations}))


def _captions(drawn: Sequence[Drawn], seed: int, wording: int) -> list[str]:
    return write_captions(np.stack([each.values for each in drawn]), ALL, seeds.generator(seed, CAPTIONS, wording))
