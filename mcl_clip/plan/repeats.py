"""The draws of a bucket that repeats samples: all copies of one in different batches."""

import numpy as np

from mcl_clip.plan.permutation import mix, permute


def deal(
    draws: np.ndarray,
    *,
    copies: int,
    repeats: int,
    full: int,
    lanes: int,
    window: int,
    global_batch: int,
    key: np.ndarray,
) -> np.ndarray:
    """int64: which place on the bucket's line each draw takes.

    The line has `copies` places; those of one sample, at most `repeats`, are adjacent. It is cut into rows, each dealt
    out to as many full batches, one place each, as a window of at least `window` different samples has; so adjacent
    places meet in no batch (McNaughton's wrap-around rule, 1959). A batch takes `global_batch` / `lanes` rows of each
    lane, a range of the line. Every `repeats`-th place of the line's end is left over. Without full batches, so is the
    whole line, as `repeats` pieces, one draw after the other.
    """
    if not full:
        return _pieces(draws, copies, repeats)
    body = full * global_batch
    kept = copies - (copies - body) * repeats
    index = _dealt(draws, repeats, full, lanes, window, global_batch, key)
    beyond = index - kept
    index = np.where(beyond < 0, index, kept + beyond + beyond // (repeats - 1) + 1)
    return np.where(draws < body, index, kept + (draws - body) * repeats)


def _pieces(draws, copies, repeats):
    """Piece i is places i, i + repeats, i + 2 repeats, ..."""
    length, longer = divmod(copies, repeats)
    piece = np.where(draws < longer * (length + 1), draws // (length + 1), (draws - longer) // length)
    return piece + repeats * (draws - piece * length - np.minimum(piece, longer))


def _dealt(draws, repeats, full, lanes, window, global_batch, key):
    chunk = global_batch // lanes
    batch, position = np.divmod(draws, global_batch)
    lane, row = np.divmod(position, chunk)
    keys = mix(mix(key) + lane.astype(np.uint64))
    row = permute(row, chunk, mix(keys + batch.astype(np.uint64)))
    windows = max(1, min(full // (2 * repeats), -(-full * chunk // (window * repeats))))
    at = ((batch + 1) * windows - 1) // full
    first = at * full // windows
    width = (at + 1) * full // windows - first
    column = batch - first
    if full >= 2 * (repeats - 1):
        # Which batch a place of the row goes to, the halves of a row apart: so that copies of one sample which end a
        # row and begin the next still go to different ones.
        half = np.where(column < width // 2, 0, width // 2)
        size = np.where(half > 0, width - half, width // 2)
        keys = mix(mix(mix(keys) + at.astype(np.uint64)) + row.astype(np.uint64))
        column = half + permute(column - half, size, keys)
    return lane * chunk * full + first * chunk + row * width + column
