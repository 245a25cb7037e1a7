"""Byte ranges of remote tars: neighbours as one request, many requests at a time, tried again after what may pass."""

import os
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import fsspec
import numpy as np

from mcl_clip.errors import UserError
from mcl_clip.shards.remote import TRIES, reason_of

GAP = 4096  # bytes between two ranges that are fetched along: the headers, and a short .json, between image and caption
BLOCK = 8 << 20  # most bytes of a request that joins ranges
AT_ONCE = 64  # requests


class NoRanges(UserError):
    """A server gives tars whole or not at all."""


def joined(tar: np.ndarray, start: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(tar, start, stop) int64 of requests that fetch all of these ranges, ascending; neighbours share one."""
    tar, start, size = (np.asarray(values, np.int64) for values in (tar, start, size))
    order = np.lexsort((start, tar))
    found: list[list[int]] = []
    for at, low, high in zip(tar[order].tolist(), start[order].tolist(), (start + size)[order].tolist(), strict=True):
        last = found[-1] if found else None
        near = last is not None and last[0] == at and low <= last[2] + GAP
        if last is not None and near and (max(high, last[2]) - last[1] <= BLOCK or low < last[2]):
            last[2] = max(last[2], high)
        else:
            found.append([at, low, high])
    return tuple(np.array(found, np.int64).reshape(-1, 3).T)  # type: ignore[return-value]


def fetch(urls: Sequence[str], starts: Sequence[int], stops: Sequence[int]) -> list[bytes]:
    """Bytes [start, stop) of each URL; `UserError` for what is not there, `NoRanges` where the server gives none."""
    found: list[bytes | None] = [None] * len(urls)
    for url in {_server(url): url for url in urls}.values():
        _probe(_server(url), os.getpid(), url)
    for attempt in range(TRIES):
        left = [index for index, data in enumerate(found) if data is None]
        answers = _ask([urls[i] for i in left], [starts[i] for i in left], [stops[i] for i in left])
        worst: tuple[int, Exception] | None = None
        for index, answer in zip(left, answers, strict=True):
            if isinstance(answer, Exception):
                worst = worst or (index, answer)
                continue
            _check(urls[index], stops[index] - starts[index], len(answer))
            found[index] = answer
        if worst is None:
            return [data for data in found if data is not None]
        lasting = isinstance(worst[1], (ImportError, FileNotFoundError, PermissionError))
        if lasting or attempt == TRIES - 1:
            raise UserError(f"{urls[worst[0]]} cannot be read ({reason_of(worst[1])})")
        time.sleep(2**attempt / 2)
    raise AssertionError


@lru_cache(maxsize=64)
def _probe(server: str, process: int, url: str) -> None:
    """One byte, once a server and process: what gives no ranges would answer every request with a whole tar."""
    (answer,) = _ask([url], [0], [1])
    if isinstance(answer, bytes) and len(answer) > 1:
        raise NoRanges(f"{url}: its server gives no ranges of bytes, only whole tars; copy or mount the data")


def _check(url: str, wanted: int, got: int) -> None:
    if got != wanted:
        raise UserError(f"{url} ends early: a range of {wanted} bytes gave {got}; index the data again")


def _ask(urls: Sequence[str], starts: Sequence[int], stops: Sequence[int]) -> list[Any]:
    """What each range is, or the exception that it ended in."""
    by_server: dict[str, list[int]] = {}
    for index, url in enumerate(urls):
        by_server.setdefault(_server(url), []).append(index)
    answers: list[Any] = [None] * len(urls)
    for server, own in by_server.items():
        try:
            system = _system(server, os.getpid())
            paths = [system._strip_protocol(urls[index]) for index in own]
            limits = [starts[index] for index in own], [stops[index] for index in own]
            if system.async_impl:
                found = system.cat_ranges(paths, *limits, batch_size=AT_ONCE, on_error="return")
            else:  # whose files would read ahead
                found = [_read(system, *one) for one in zip(paths, *limits, strict=True)]
        except Exception as error:  # each file system raises its own
            found = [error] * len(own)
        for index, answer in zip(own, found, strict=True):
            answers[index] = answer
    return answers


def _read(system: Any, path: str, start: int, stop: int) -> bytes | Exception:
    try:
        with system.open(path, "rb", cache_type="none") as file:
            file.seek(start)
            return file.read(stop - start)
    except Exception as error:  # as above
        return error


def _server(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


@lru_cache(maxsize=64)
def _system(server: str, process: int) -> Any:
    """One a process, with its connections: those of before a fork would not work after it."""
    return fsspec.url_to_fs(f"{server}/", skip_instance_cache=True)[0]
