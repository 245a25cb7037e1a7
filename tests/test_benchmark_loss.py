import json

import pytest
import torch

from benchmarks.loss import main
from benchmarks.steps import peak_memory

MIB = 1 << 20


def test_peak_memory_is_what_was_held_at_a_time():
    standing = torch.zeros(5 * MIB)

    def step():
        first = torch.empty(3 * MIB, dtype=torch.uint8)
        del first
        second = torch.empty(2 * MIB, dtype=torch.uint8)
        third = second + 1
        return [third, standing[:1]]

    peak, _ = peak_memory(step, torch.device("cpu"))
    assert 4 * MIB <= peak < 4 * MIB + MIB // 2


def test_one_line_with_every_number(capsys):
    arguments = ["--json", "--batch", "64", "--dim", "8", "--repeats", "1"]
    assert main(arguments) == 0
    (line,) = capsys.readouterr().out.splitlines()
    result = json.loads(line)
    keys = "batch buckets dim ms clip_loss_ms masked_ms speedup_vs_clip_loss speedup_vs_masked peak_memory_ratio"
    for row in (result, *result["grid"]):
        assert set(keys.split()) | {"max_abs_diff"} <= row.keys()
        assert row["max_abs_diff"] < 1e-5
        assert row["speedup_vs_clip_loss"] == pytest.approx(row["clip_loss_ms"] / row["ms"], rel=0.05)
    ragged, mixed, by_label = result["ragged"], result["mixed"], result["by_label"]
    assert ragged["segments"] == 4 and 0 < ragged["operations"] < 120
    assert ragged["time_vs_equal"] == pytest.approx(ragged["ms"]["ragged"] / ragged["ms"]["equal"], rel=0.05)
    assert mixed["segments"] == 1 + 4 and mixed["memory_vs_sum"] > 0
    apart = mixed["ms"]["long"] + mixed["ms"]["short"]
    assert mixed["time_vs_sum"] == pytest.approx(mixed["ms"]["both"] / apart, rel=0.05)
    speedup = by_label["ms"]["clip_loss"] / by_label["ms"]["by_label"]
    assert by_label["speedup_vs_clip_loss"] == pytest.approx(speedup, rel=0.05) and by_label["labels"] == 4
    assert [(row["batch"], row["buckets"]) for row in result["grid"]] == [(64, 8), (64, 1), (16, 8), (16, 1), (16, 1)]
