"""What the studies share: units of work, training, intervals."""

import numpy as np
import pytest

from benchmarks.study.intervals import interval
from benchmarks.study.schedule import Unit, run_all


def note(path, log, *needs):
    """A unit of work: writes its file when all it needs is there."""
    assert all(each.is_file() for each in needs)
    with open(log, "a") as file:
        file.write(f"{path.name}\n")
    path.write_text("done")


def test_units_run_once_each_after_what_they_need(tmp_path):
    log = tmp_path / "log"
    a, b, c = (tmp_path / name for name in "abc")
    units = [
        Unit(c, note, (c, log, a, b), (a, b)),
        Unit(a, note, (a, log)),
        Unit(b, note, (b, log, a), (a,)),
    ]
    run_all([*units, units[1]], processes=1, progress=False)
    assert log.read_text().split() == ["a", "b", "c"]
    run_all(units, processes=1, progress=False)
    c.unlink()
    run_all(units, processes=2, progress=False)
    assert log.read_text().split() == ["a", "b", "c", "c"]


def test_a_unit_that_nothing_can_feed_is_named(tmp_path):
    lonely = Unit(tmp_path / "x", note, (), (tmp_path / "never",))
    with pytest.raises(AssertionError, match="nothing makes what these need"):
        run_all([lonely], processes=1, progress=False)


def test_interval_is_students():
    found = interval([0.1, 0.2, 0.3])
    assert found.mean == pytest.approx(0.2)
    assert found.half == pytest.approx(4.302653 * 0.1 / np.sqrt(3), rel=1e-5)
    assert interval([0.5]).half is None
    assert [interval(each).verdict for each in ([1.0, 1.1], [-1.0, -1.1], [-1.0, 1.0], [1.0])] == [
        "wins",
        "loses",
        "ties",
        "ties",
    ]
