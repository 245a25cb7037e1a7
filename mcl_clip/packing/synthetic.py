"""Samples without a meaning, for measuring how fast data is read and trained on."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mcl_clip import seeds
from mcl_clip.packing.rows import Row, Unit, cut

SIDE, IMAGES = 256, 64


@dataclass
class SyntheticRows:
    """`total` captioned JPEGs of 256 x 256 pixels; 64 images take turns, no caption occurs twice."""

    total: int
    parallel: bool = True
    _images: list[bytes] = field(default_factory=list, repr=False)

    @property
    def identity(self) -> dict[str, Any]:
        """See `Source`."""
        return {"kind": "synthetic", "rows": self.total}

    def units(self, size: int, work: Path) -> Iterator[Unit]:
        """See `Source`."""
        return cut(self.total, size)

    def rows(self, unit: Unit, work: Path) -> Iterator[Row]:
        """See `Source`."""
        self._images = self._images or [_image(number) for number in range(IMAGES)]
        for number in range(unit.at[0], unit.at[0] + unit.rows):
            yield Row(self._images[number % IMAGES], [f"a synthetic image, number {number}"])


def _image(number: int) -> bytes:
    """Smooth with some noise: about 20 KB, as photographs of this size."""
    random = seeds.generator(number)
    coarse = Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).resize((SIDE, SIDE))
    noise = random.normal(0, 8, (SIDE, SIDE, 3))
    stream = io.BytesIO()
    Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=85)
    return stream.getvalue()
