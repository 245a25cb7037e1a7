"""Checkpoints are whole or absent, few, and run no code."""

import os
import pickle

import pytest
import torch

from mcl_clip.errors import UserError
from mcl_clip.models import checkpoints
from mcl_clip.models.checkpoints import latest_checkpoint, load_checkpoint, save_checkpoint

STATE = {"model": {"weight": torch.arange(6.0)}, "plan": {"epoch": 1, "policy": {"leftovers": "pack"}}, "scaler": None}


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_what_is_saved_is_loaded_with_weights_only(tmp_path):
    path = save_checkpoint(tmp_path, 12, STATE, keep=2)
    assert torch.load(path, weights_only=True)["step"] == 12
    loaded = load_checkpoint(path)
    assert torch.equal(loaded["model"]["weight"], STATE["model"]["weight"])
    assert loaded["plan"] == STATE["plan"] and loaded["step"] == 12


def test_the_last_k_are_kept_and_debris_of_kills_is_swept(tmp_path):
    (tmp_path / ".step_00000001.pt.0123.tmp").write_bytes(b"half")
    for step in (5, 100, 20, 300):
        save_checkpoint(tmp_path, step, STATE, keep=2)
    assert names(tmp_path) == ["step_00000100.pt", "step_00000300.pt"]
    assert latest_checkpoint(tmp_path).name == "step_00000300.pt"
    assert latest_checkpoint(tmp_path / "absent") is None


@pytest.mark.parametrize("fails", ["torch.save", "sync", "rename"])
def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, monkeypatch, fails):
    save_checkpoint(tmp_path, 1, STATE, keep=1)

    def full(*arguments, **_):
        if fails == "torch.save":
            arguments[1].write_bytes(b"the first half")
        raise OSError(28, "No space left on device")

    target = {"torch.save": (torch, "save"), "sync": (os, "fsync"), "rename": (os, "replace")}[fails]
    with monkeypatch.context() as patch:
        patch.setattr(*target, full)
        with pytest.raises(UserError, match=r"No space left.*free space"):
            save_checkpoint(tmp_path, 2, STATE, keep=1)
    assert names(tmp_path) == ["step_00000001.pt"]
    assert load_checkpoint(latest_checkpoint(tmp_path))["step"] == 1


def test_what_else_goes_wrong_while_saving_is_no_full_disk(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        save_checkpoint(tmp_path, 2, STATE, keep=1)


class Exploit:
    def __reduce__(self):
        return (os.mkdir, ("exploited",))


def test_a_checkpoint_runs_no_code_and_damage_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({**checkpoints.FORMAT, "evil": Exploit()}, "step_00000001.pt", pickle_module=pickle)
    with pytest.raises(UserError, match="cannot be read"):
        load_checkpoint("step_00000001.pt")
    assert not os.path.exists("exploited")

    path = save_checkpoint(tmp_path, 2, STATE, keep=5)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="delete it to go on"):
        load_checkpoint(path)
    torch.save({"weights": 1}, tmp_path / "step_00000003.pt")
    with pytest.raises(UserError, match="is not of"):
        load_checkpoint(tmp_path / "step_00000003.pt")
