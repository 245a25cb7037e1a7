"""A keyed pseudo-random permutation of a small range that can be evaluated at any one point."""

import numpy as np

ROUNDS = 8
_INCREMENT = np.uint64(0x9E3779B97F4A7C15)


def mix(words: np.ndarray) -> np.ndarray:
    """Scramble uint64 words, bijectively and vectorised (the SplitMix64 finaliser of Steele et al., 2014)."""
    words = np.asarray(words, np.uint64) + _INCREMENT
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def permute(index: np.ndarray, size: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Where the permutation of range(size) drawn by `key` sends `index`, pointwise.

    All three are arrays of one shape, or broadcast to one: 0 <= index < size < 2**32, `key` uint64. Returns
    int64. For a fixed (size, key) this is a bijection of range(size): a Feistel network on a x b >= size
    cells, with addition modulo a and b in place of exclusive or (Black and Rogaway, 2002), walked until it
    falls inside the range.
    """
    index, size, key = np.broadcast_arrays(index, size, np.asarray(key, np.uint64))
    rows = np.ceil(np.sqrt(size)).astype(np.uint64)
    columns = -(-size // rows.astype(np.int64)).astype(np.int64)
    columns = columns.astype(np.uint64)
    limit = size.astype(np.uint64)
    value = _network(index.astype(np.uint64), rows, columns, key)
    outside = np.nonzero(value >= limit)
    while outside[0].size:
        walked = _network(value[outside], rows[outside], columns[outside], key[outside])
        value[outside] = walked
        still = walked >= limit[outside]
        outside = tuple(axis[still] for axis in outside)
    return value.astype(np.int64)


def _network(value, rows, columns, key):
    left, right = value // columns, value % columns
    for round_ in range(0, ROUNDS, 2):
        left = _add(left, right, key, round_, rows)
        right = _add(right, left, key, round_ + 1, columns)
    return left * columns + right


def _add(target, other, key, round_, modulus):
    """(target + pseudo-random function of `other`) modulo `modulus`."""
    value = mix(key + (other + np.uint64(round_ << 40)) * _INCREMENT) >> np.uint64(32)
    total = target + ((value * modulus) >> np.uint64(32))
    return np.where(total >= modulus, total - modulus, total)
