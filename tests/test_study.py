"""What the studies share: units of work, training, intervals."""

import contextlib
import fcntl
import multiprocessing
import time

import numpy as np
import pytest
import torch

from benchmarks.study.intervals import Estimate, holm, interval, within_blocks
from benchmarks.study.schedule import Unit, run_all
from benchmarks.study.teaching import Taught
from benchmarks.study.training import Recipe, train
from mcl_clip.loss import MCLClipLoss
from mcl_clip.plan.segments import SegmentLayout


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


def wait_for_ever(path):
    """A unit of work that holds a lock for as long as its process is there."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        path.with_suffix(".held").touch()
        time.sleep(600)


def run_for_ever(path):
    """A study that is asked for that unit."""
    run_all([Unit(path.with_suffix(".done"), wait_for_ever, (path,))], processes=1, progress=False)


def test_workers_end_when_the_study_is_killed(tmp_path):
    study = multiprocessing.get_context("spawn").Process(target=run_for_ever, args=(tmp_path / "lock",))
    study.start()
    while not (tmp_path / "lock.held").is_file():
        assert study.is_alive()
        time.sleep(0.1)
    study.kill()
    with open(tmp_path / "lock") as file:
        for _ in range(600):
            with contextlib.suppress(BlockingIOError):
                return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            time.sleep(0.1)
    pytest.fail("a worker outlived its study")


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


def tiny_run(**changed):
    """Weights of a linear model trained for two epochs of four steps."""
    generator = torch.Generator().manual_seed(0)
    images, texts = (torch.randn(32, 6, generator=generator) for _ in range(2))
    model = TwoLinear()
    recipe = Recipe(epochs=2, batch=8, warmup=2, min_segment=1, lr=0.05, **changed)
    clip_loss = MCLClipLoss()

    def batch_loss(rows, epoch, layout):
        return clip_loss(*model(images[rows], texts[rows]), segments=layout)

    return model, train(model, batch_loss, [""] * 32, recipe, seed=1, draw=0)


class TwoLinear(torch.nn.Module):
    """A CLIP of two matrices, the same at every start."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.image, self.text = (torch.nn.Linear(6, 4, bias=False) for _ in range(2))
        self.logit_scale = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, images, texts):
        image, text = (torch.nn.functional.normalize(each, dim=-1) for each in (self.image(images), self.text(texts)))
        return image, text, self.logit_scale.exp()


def test_training_lowers_the_loss_and_the_mean_of_weights_is_kept_when_asked():
    last, loss = tiny_run()
    assert loss < np.log(8)
    assert not last.training
    kept, _ = tiny_run(average=0.0)
    assert torch.equal(kept.image.weight, last.image.weight)
    mean, same = tiny_run(average=0.9)
    assert same == loss
    distance = (mean.image.weight - TwoLinear().image.weight).norm()
    assert 0 < distance < (last.image.weight - TwoLinear().image.weight).norm()


class Turned(torch.nn.Module):
    """Embeds images by a matrix."""

    def __init__(self, seed):
        super().__init__()
        self.matrix = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))

    def encode_image(self, images):
        return images @ self.matrix


def test_a_teacher_sees_moved_pictures_as_the_student_does():
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(12, 6, generator=generator), torch.randn(12, 8, generator=generator)
    models, rows = [Turned(1), Turned(2)], torch.tensor([3, 1, 7, 8])
    student = [torch.nn.functional.normalize(torch.randn(4, 4, generator=generator), dim=1) for _ in range(2)]
    asked = (*student, torch.tensor(5.0), SegmentLayout((1, 3)), rows)

    def taught(pictures):
        given = {"scale": 7.0, "contrastive": 0.5}
        return Taught(models, lambda rows, epoch: (1 + epoch) * images[rows] + epoch, pictures, texts, **given)

    known = taught(torch.cat([model.encode_image(images) for model in models], 1))
    torch.testing.assert_close(taught(None)(*asked, 0), known(*asked, 0))
    assert not torch.allclose(taught(None)(*asked, 1), known(*asked, 1))


def test_blocks_are_fixed_and_one_block_is_students_interval():
    values = [0.1, 0.4, 0.2]
    assert within_blocks([values]).interval().half == pytest.approx(interval(values).half)
    apart = within_blocks([[0.0, 0.2], [5.0, 5.2]])
    assert apart.mean == pytest.approx(2.6) and apart.freedom == 2
    assert apart.error == pytest.approx(np.sqrt(0.02 / 4))  # two blocks of variance 0.02, four values
    assert apart.deviation == pytest.approx(np.sqrt(0.02))


def test_p_and_interval_agree():
    estimate = within_blocks([[0.1, 0.4, 0.2], [0.3, 0.2, 0.5]])
    assert estimate.interval(estimate.p).half == pytest.approx(estimate.mean)
    assert Estimate(0.0, 0.0, 3).p == 1 and Estimate(1.0, 0.0, 3).p == 0


def test_holm_steps_down_and_stops():
    found = {name: Estimate(mean, 1.0, 30) for name, mean in {"b": 2.3, "a": 3.0, "c": 2.2}.items()}
    levels = holm(found)
    assert list(levels) == ["b", "a", "c"]
    assert levels["a"] == found["a"].interval(0.05 / 3) and levels["a"].verdict == "wins"
    assert levels["b"].half == pytest.approx(found["b"].interval(0.05 / 2).half) and levels["b"].verdict == "ties"
    assert found["c"].interval(0.05).verdict == "wins" and levels["c"].verdict == "ties"
    alone = holm({"x": Estimate(-3.0, 1.0, 30)})["x"]
    assert alone == Estimate(-3.0, 1.0, 30).interval() and alone.verdict == "loses"
