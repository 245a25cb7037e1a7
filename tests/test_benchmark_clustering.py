import json

import numpy as np
import pytest

from benchmarks.clustering.__main__ import main
from benchmarks.clustering.kmeans import overlapping_modes
from benchmarks.clustering.memory import peak_bytes

SMALL = "--points 3000 --dim 48 --clusters 4 --restarts 2 --model mcl-tiny-vit --images 6 --batch-size 2 --rounds 1"


def test_one_line_with_every_number(capsys):
    assert main(["--json", *SMALL.split(), "--workers", "0", "--sizes", "400", "800", "--label-files", "3"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    result = json.loads(line)
    assert result["speedup_vs_minibatch_kmeans"] == pytest.approx(
        result["minibatch_kmeans_s"] / result["kmeans_s"], rel=0.5
    )
    objectives = result["objectives"]
    assert result["objective_ratio"] == pytest.approx(objectives["one"] / objectives["peer"], abs=1e-4)
    assert 0 < objectives["best"] <= objectives["one"] < 2 and result["minibatch_kmeans_steps"] > 0
    assert result["extraction_overhead"] > 0 and result["decode_ms"] > 0
    assert len(result["peak_mib"]) == 2 and min(result["peak_mib"]) > 50
    assert result["sum_us_a_sample"] > 0 and "sum_us_an_earlier_stage" in result
    assert result["peak_memory_ratio"] == pytest.approx(result["peak_mib"][1] / result["peak_mib"][0], abs=1e-3)


def test_modes_overlap_on_the_unit_sphere():
    points, strayed = overlapping_modes(4000, 48, 0)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, atol=1e-5)
    assert 0.01 < strayed < 0.3
    assert np.array_equal(points, overlapping_modes(4000, 48, 0)[0])


def test_peak_memory_is_seen():
    before = peak_bytes()
    np.ones(256 << 20, np.uint8).sum()
    assert peak_bytes() >= max(before, 256 << 20)
