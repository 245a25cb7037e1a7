"""The kit for a GPU: every part starts, what was measured stays, and what it needs is told."""

import json

import pytest
import torch

from benchmarks.gpu import __main__ as kit
from benchmarks.gpu.loss import RANKS, OneOf, _clip_local
from benchmarks.gpu.parts import PARTS, Part
from benchmarks.gpu.record import flat, machine, read, table
from mcl_clip.plan.segments import SegmentLayout
from tests.slow_losses import features, value_and_gradients

# The demo has a test of its own, the tests are these, and both steps are one in tiny.
TRIED = [part.name for part in PARTS if part.name not in ("tests", "demo", "step ViT-L-14")]


def test_every_part_starts(capsys, monkeypatch):
    kept = {}
    monkeypatch.setattr(kit, "write", lambda path, record: kept.update(json.loads(json.dumps(record))))
    assert kit.main(["--smoke", "--parts", *TRIED]) == 0
    (found,) = kept.values()
    assert list(found) == TRIED and all(entry["result"] for entry in found.values())
    loss, step = found["loss"]["result"], found["step ViT-B-32"]["result"]
    assert loss["global, 8 segments"]["ms"] > 0 and loss["local, 1 segments"]["clip_loss_ms"] > 0
    assert step["text cache"]["samples_per_s"] > 0 and step["text cache, compiled"]["samples_per_s"] > 0
    assert step["synchronisations"] == 0 and step["open_clip_samples_per_s"] > 0
    assert found["loader"]["result"]["samples_per_s"] > 0
    assert found["clustering"]["result"]["samples"] == 64 and found["clustering"]["result"]["precision"] == "fp32"
    assert found["fused inference"]["result"]["compiled_max_abs_diff"] < 1e-5
    assert all(found["one NCCL rank"]["result"].values())
    printed = capsys.readouterr().out
    assert printed == table(kept) + "\n" and f"## {machine()}" in printed


def test_the_parts_fit_eight_minutes():
    assert sum(part.seconds for part in PARTS) <= kit.BUDGET == 8 * 60


def test_without_cuda_there_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as end:
        kit.main([])
    assert end.value.code == 2 and capsys.readouterr().err.count("\n") == 1
    assert kit.main(["--needs"]) == 0 and "pip download" in capsys.readouterr().out


def test_it_stops_after_a_part_and_goes_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(kit, "machine", lambda: "a device")
    runs = []

    def timed(part, folder, *, seconds):
        runs.append(part.name)
        if len(runs) == 3:
            raise KeyboardInterrupt
        return {"seconds": 1.0, "result": {"rate": 2.0}} if part.name != "loss" else {"seconds": 1.0, "error": "why"}

    monkeypatch.setattr(kit, "_timed", timed)
    output = ["--output", str(tmp_path / "results.json"), "--parts", "tests", "loss", "loader"]
    with pytest.raises(KeyboardInterrupt):
        kit.main(output)
    assert list(read(tmp_path / "results.json")["a device"]) == ["tests", "loss"]
    assert kit.main(output) == 1 and runs == ["tests", "loss", "loader", "loss", "loader"]
    assert kit.main([*output, "--again"]) == 1 and runs[5:] == ["tests", "loss", "loader"]
    assert "| loss |  | why |" in (tmp_path / "results.md").read_text()
    assert kit.main([*output, "--again", "--seconds", "0"]) == 1 and len(runs) == 8
    assert "no time is left" in capsys.readouterr().err


def test_a_part_is_stopped_in_time_and_what_it_said_stays(tmp_path, monkeypatch):
    (tmp_path / "slow.py").write_text(
        "import sys, time\nprint('{\"first\": 1}', flush=True)\n"
        "if sys.argv[1] == 'slow': time.sleep(600)\nsys.exit('the reason')\n"
    )
    (tmp_path / "silent.py").write_text("raise SystemExit('no compiler')")
    monkeypatch.setattr(kit, "ROOT", tmp_path)
    late = kit._timed(Part("a", 1, "slow", "slow", ""), tmp_path, seconds=3)
    assert late["result"] == {"first": 1, "not whole": "stopped after 3 s"}
    assert kit._timed(Part("a", 1, "slow", "quick", ""), tmp_path, seconds=60)["result"]["not whole"] == "the reason"
    assert kit._timed(Part("a", 1, "silent", "", ""), tmp_path, seconds=60)["error"] == "no compiler"


def test_one_rank_of_eight_has_open_clips_local_loss():
    image, text = features(RANKS * 6, 5, 0)
    others = [each[6:].detach() for each in (image, text)]
    own = [each[:6].detach().requires_grad_() for each in (image, text)]
    scale = torch.tensor(9.0, dtype=torch.float64, requires_grad=True)
    ours = value_and_gradients(OneOf(list(others))(*own, scale, segments=SegmentLayout((RANKS * 6,))), *own, scale)
    theirs = value_and_gradients(_clip_local(others, *own, scale), *own, scale)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


def test_nested_numbers_are_rows():
    assert flat({"a": {"b": 1.23456, "c": [1, 2]}, "d": "x"}) == {"a: b": "1.235", "a: c": "1, 2", "d": "x"}
