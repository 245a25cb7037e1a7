"""Samples of one shard, read by byte range; open tars are few and shared."""

import logging
import os
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise

import numpy as np
import pyarrow as pa

from mcl_clip.errors import UserError
from mcl_clip.shards.captions import draw_caption, first_caption, read_captions
from mcl_clip.shards.offsets import column
from mcl_clip.shards.ranges import NoRanges, fetch, joined
from mcl_clip.shards.remote import is_remote, open_tar

log = logging.getLogger(__name__)
Range = tuple[int, int, int]
"""(tar, offset, size)."""
AHEAD = 32 << 20  # bytes of remote ranges that are fetched together, while those before are used
MAX_OPEN_TARS = 64
TRIES = 4  # of a local read, as of a remote one: network file systems fail for a moment


class Tars:
    """Read-only access to tars by ordinal; at most MAX_OPEN_TARS are open in a process.

    paths, sizes: of every tar. Remote ones are read whole through the cache (see `remote`), for those who take most
    of a tar in one go; with `ranged`, by the ranges that are asked for (see `ranges`), and with `else_whole` through
    the cache where a server gives none. A tar of another size than when it was indexed raises `UserError` where it is
    local or read whole. Pickled copies open their own descriptors.
    """

    def __init__(self, paths: Sequence[str], sizes: Sequence[int], *, ranged: bool = False, else_whole: bool = False):
        self.paths, self.sizes, self.ranged, self._else_whole = paths, sizes, ranged, else_whole
        self._open: OrderedDict[int, _Descriptor] = OrderedDict()
        self._held: dict[int, list[tuple[int, bytes]]] = {}

    def read(self, tar: int, offset: int, size: int) -> bytes:
        """Bytes [offset, offset + size) of a tar; `UserError` when it does not have them."""
        if is_remote(str(self.paths[tar])):
            if self.ranged:
                return self._held_or_fetched(tar, offset, size)
            # Not kept open: an evicted tar that is open still takes room.
            with open_tar(str(self.paths[tar]), int(self.sizes[tar])) as file:
                data = read_at(file.fileno(), size, offset)
        else:
            data = self._read_local(tar, size, offset)
        if len(data) != size:
            raise UserError(f"{self.paths[tar]} ends early: {size} bytes at {offset} gave {len(data)}")
        return data

    def expect(self, ranges: Sequence[Range]) -> None:
        """Fetch remote ranges that are read next, all together; they take the place of those fetched before."""
        self._held = self._fetched(ranges)

    def in_turn(self, ranges: Sequence[Range]) -> Iterator[bytes]:
        """Many ranges in this order; remote ones are fetched while those before are used."""
        cuts = np.flatnonzero(np.diff(np.cumsum([size for _, _, size in ranges]) // AHEAD)) + 1
        parts = [ranges[low:high] for low, high in pairwise([0, *cuts.tolist(), len(ranges)])]
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(self._fetched, parts[0])
            for index, part in enumerate(parts):
                held = coming.result()
                if index + 1 < len(parts):
                    coming = pool.submit(self._fetched, parts[index + 1])
                self._held = held
                for each in part:
                    yield self.read(*each)
        self._held = {}

    def _fetched(self, ranges: Sequence[Range]) -> dict[int, list[tuple[int, bytes]]]:
        """By tar, (offset, bytes) of what covers the remote ones of these ranges."""
        held: dict[int, list[tuple[int, bytes]]] = {}
        remote = [each for each in ranges if self.ranged and each[2] and is_remote(str(self.paths[each[0]]))]
        if not remote:
            return held
        tars, starts, stops = (values.tolist() for values in joined(*np.array(remote, np.int64).T))
        try:
            found = fetch([str(self.paths[tar]) for tar in tars], starts, stops)
        except NoRanges as error:
            if not self._else_whole:
                raise
            log.warning("%s; read through the cache instead", str(error).partition(";")[0])
            self.ranged = False
            return held
        for tar, start, data in zip(tars, starts, found, strict=True):
            held.setdefault(tar, []).append((start, data))
        return held

    def _held_or_fetched(self, tar: int, offset: int, size: int) -> bytes:
        for start, data in self._held.get(tar, ()):
            if start <= offset and offset + size <= start + len(data):
                return data[offset - start : offset - start + size]
        self._held = self._fetched([(tar, offset, size)])
        return self.read(tar, offset, size)

    def _read_local(self, tar: int, size: int, offset: int) -> bytes:
        for attempt in range(TRIES):
            try:
                return read_at(self.descriptor(tar), size, offset)
            except OSError as error:
                self._open.pop(tar, None)  # a descriptor may have gone stale
                if attempt == TRIES - 1:
                    raise UserError(f"{self.paths[tar]} cannot be read ({error.strerror})") from None
                time.sleep(2**attempt / 8)
        raise AssertionError

    def descriptor(self, tar: int) -> int:
        """File descriptor of a local tar, good until MAX_OPEN_TARS other ones were asked for."""
        if tar in self._open:
            self._open.move_to_end(tar)
        else:
            self._open[tar] = _Descriptor(str(self.paths[tar]), int(self.sizes[tar]))
            if len(self._open) > MAX_OPEN_TARS:
                self._open.popitem(last=False)
        return self._open[tar].number

    def __getstate__(self):
        return self.__dict__ | {"_open": OrderedDict(), "_held": {}}


def read_at(descriptor: int, size: int, offset: int) -> bytes:
    """Bytes [offset, offset + size) of a file, or as many as it has; one call of the system reads 2 GiB at most."""
    data = os.pread(descriptor, size, offset)
    if len(data) in (0, size):
        return data
    parts, got = [data], len(data)
    while got < size and (data := os.pread(descriptor, size - got, offset + got)):
        parts.append(data)
        got += len(data)
    return b"".join(parts)


class _Descriptor:
    def __init__(self, path: str, size: int):
        try:
            self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise UserError(f"{path} cannot be opened ({error.strerror}); index the data again") from None
        now = os.fstat(self.number).st_size
        if now != size:
            raise UserError(
                f"{path} has {now} bytes, it had {size} when it was indexed; delete manifest.json of the "
                f"index and run mcl-shards index again"
            )

    def __del__(self):
        if hasattr(self, "number"):
            os.close(self.number)


class ShardRows:
    """Samples of one shard, by row: rows [0, num_samples) are trained on, those in `apart` never, the rest failed.

    name: of the shard. table: its offsets (see `offsets.SCHEMA`), memory-mapped.
    """

    def __init__(
        self,
        name: str,
        table: pa.Table,
        apart: range,
        tars: Tars,
        caption_key: str | None,
        source_names: Sequence[str] | None,
    ):
        self.name, self.table, self.apart = name, table, apart
        self.num_samples, self.num_failed = apart.start, len(table) - apart.stop
        self._tars, self._caption_key, self._source_names = tars, caption_key, source_names
        self._tar = column(table, "tar")
        self._image = column(table, "image_offset"), column(table, "image_size")
        self._caption = column(table, "caption_offset"), column(table, "caption_size")

    def __len__(self) -> int:
        """Samples that are trained on."""
        return self.num_samples

    @cached_property
    def keys(self) -> list[str]:
        """Keys inside the tars of all rows, the failed ones last."""
        return self.table["key"].to_pylist()

    def ranges(self, row: int, *, captions: bool) -> list[Range]:
        """The ranges of a tar that hold the image file of a row, and its captions."""
        parts = (self._image, self._caption) if captions else (self._image,)
        return [(int(self._tar[row]), int(offsets[row]), int(sizes[row])) for offsets, sizes in parts]

    def read_image(self, row: int) -> bytes:
        """The image file; empty for a sample without one."""
        return self._read(row, *self._image)

    def read_caption(self, row: int) -> str | None:
        """The caption, the first of several; None for a sample without one."""
        return first_caption(self.captions(row))

    def draw_caption(self, row: int, word: int, probs: Sequence[float] | None = None) -> str | None:
        """One of the captions by a random 64-bit `word`; see `captions.draw_caption`."""
        return draw_caption(self.captions(row), word, probs)

    def source_of(self, row: int) -> tuple[str, str]:
        """(shard, key) of the source sample."""
        if self._source_names is None:
            return self.name, self.table["key"][row].as_py()
        return self._source_names[self.table["source"][row].as_py()], self.table["source_key"][row].as_py()

    def source_ordinal(self, row: int) -> int:
        """Ordinal of the sample's source shard."""
        return int(self._tar[row]) if self._source_names is None else self.table["source"][row].as_py()

    def captions(self, row: int) -> list[list[str]]:
        """All captions, by key; see `captions.read_captions`."""
        return read_captions(self._read(row, *self._caption), self._caption_key)

    def _read(self, row: int, offsets, sizes) -> bytes:
        size = int(sizes[row])
        return self._tars.read(int(self._tar[row]), int(offsets[row]), size) if size else b""
