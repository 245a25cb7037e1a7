"""What a rank's loader gives."""

from dataclasses import dataclass

from torch import Tensor

from mcl_clip.plan.segments import SegmentLayout


@dataclass(frozen=True)
class MicroBatch:
    """One rank's part of one accumulation step.

    images: uint8 [b, 3, H, W] on the device, or two views [b, 2, 3, H, W], which the loader's `normalize` makes into
    what a tower takes (a `PilTransform` gives floats, normalised already); texts: int64 [b, context], on the device, of
    context 0 where no captions are read; keys: "source shard/key"; layout: of the WHOLE global batch; step: of the
    epoch; micro: of the accumulation, from 0; missing: positions of the WHOLE global batch that hold no sample and must
    not count (see `loss.missing`); vectors: [b, D] of the captions, on the device, where a locked text tower's are
    known (see `TextVectors`).
    """

    images: Tensor
    texts: Tensor
    keys: list[str]
    layout: SegmentLayout
    step: int
    micro: int
    missing: tuple[int, ...] = ()
    vectors: Tensor | None = None
