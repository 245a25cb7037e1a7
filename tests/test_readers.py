"""Batches of reader processes, one of which may die at any moment."""

import pytest
from torch.utils.data import DataLoader

from mcl_clip.errors import as_user_error
from mcl_clip.loading.readers import from_readers


class Numbers:
    def __len__(self):
        return 40

    def __getitem__(self, index):
        return index


class Refusing(DataLoader):
    """As a loader whose reader died while it handed a batch over."""

    def __iter__(self):
        yield 1
        raise ConnectionResetError(104, "Connection reset by peer")


def test_batches_come_in_order():
    for workers in (0, 2):
        assert [int(each) for each in from_readers(DataLoader(Numbers(), batch_size=None, num_workers=workers))] == [
            *range(40)
        ]


def test_a_reader_lost_in_the_handover_is_as_any_lost_one():
    batches = from_readers(Refusing(Numbers(), num_workers=1))
    assert next(batches) == 1
    with pytest.raises(RuntimeError, match="DataLoader worker") as raised:
        next(batches)
    assert "a reader process ended" in str(as_user_error(raised.value))
