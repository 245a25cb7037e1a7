"""Worker processes do their items, and do not outlive the process that started them."""

import multiprocessing
import os
import select
import signal
import time
from functools import partial

from mcl_clip.shards import pool
from tests.jobs import wait_for


def square(item):
    return item * item


def test_every_item_is_done_once_by_any_number_of_workers():
    for workers in (0, 1, 3):
        assert sorted(pool.run(square, range(20), workers)) == [(item, item * item) for item in range(20)]
    assert list(pool.run(square, [], 2)) == []


def note_and_hold(directory, item):
    (directory / str(item)).touch()
    time.sleep(60)


def hold(directory):
    list(pool.run(partial(note_and_hold, directory), [0, 1], 2))


def test_workers_end_when_their_parent_is_killed(tmp_path):
    reader, writer = os.pipe()  # ends when the last process that inherited its writer has
    process = multiprocessing.get_context("fork").Process(target=hold, args=(tmp_path,))
    process.start()
    os.close(writer)
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert select.select([reader], [], [], 20)[0] and os.read(reader, 1) == b""
    os.close(reader)
