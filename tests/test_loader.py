"""The loader against the plan, in one process and in several."""

import contextlib
import logging
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mcl_clip.errors import UserError
from mcl_clip.loading.faults import Faults
from mcl_clip.loading.loader import GlobalBatchLoader
from mcl_clip.loading.open_clip_data import for_open_clip
from mcl_clip.loading.requests import cut
from mcl_clip.plan.policy import Policy
from tests.data import TRANSFORM, labelled, make_index, planned_keys, tokenize
from tests.distributed import run_ranks

LABELS = ("0/0", "0/1", "0/0", "1/0", "0/0", "1/0", "0/0", "2/2")
POLICY = Policy(min_segment=2, lanes=4, window=10)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return make_index(tmp_path_factory.mktemp("data"), 8, 9)


def loader_of(index, **options):
    options = {"seed": 5, "stage": 1, "batch_size": 8, "policy": POLICY, **options}
    return GlobalBatchLoader(labelled(index, LABELS), transform=TRANSFORM, tokenizer=tokenize, **options)


def keys_by_step(loader):
    steps = {}
    for batch in loader:
        steps.setdefault(batch.step, []).extend(batch.keys)
    return steps


def merged(ranks):
    """Keys of every global batch, of dicts by rank."""
    return {step: [key for rank in ranks for key in rank[step]] for step in ranks[0]}


def expected_keys(loader, epoch):
    manifest, plan = loader.manifest, loader.plans[epoch]
    return {t: planned_keys(manifest, plan[t].shard, plan[t].ordinal) for t in range(len(plan))}


@pytest.mark.parametrize(("workers", "accum_freq"), [(0, 1), (2, 1), (2, 2)])
def test_pixels_lie_as_they_were_decoded(index, workers, accum_freq):
    batch = next(iter(loader_of(index, batch_size=8, workers=workers, accum_freq=accum_freq)))
    assert batch.images.shape[:2] == (8, 3) and batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_an_epoch_is_the_plan(index):
    loader = loader_of(index, workers=2)
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        assert len(loader) == len(loader.plans[epoch])
        assert keys_by_step(loader) == expected_keys(loader, epoch)


def test_batches_are_uint8_until_they_are_normalised_and_carry_the_layout_of_the_whole(index):
    loader = loader_of(index, batch_size=2, accum_freq=2, world_size=2, rank=1, channels_last=True)
    batches = list(loader)
    assert len(batches) == len(loader) == 2 * len(loader.plans[0])
    for count, batch in enumerate(batches):
        assert (batch.step, batch.micro) == divmod(count, 2)
        assert batch.layout == loader.plans[0].layout(batch.step)
        assert batch.images.shape == (2, 3, 16, 16)
        assert batch.images.dtype == torch.uint8
        pixels = loader.normalize(batch.images)
        assert pixels.dtype == torch.float32 and pixels.is_contiguous(memory_format=torch.channels_last)
        assert 1 < pixels.abs().max() <= 2.01
        assert batch.texts.dtype == torch.int64


def test_epochs_follow_each_other_without_being_told(index):
    loader = loader_of(index)
    assert [keys_by_step(loader) for _ in range(2)] == [expected_keys(loader, epoch) for epoch in range(2)]


def test_the_split_of_a_global_batch_changes_nothing(index):
    whole = [(batch.keys, batch.images) for batch in loader_of(index)]
    for batch_size, accum_freq, world_size in ((1, 2, 4), (4, 2, 1), (2, 1, 4)):
        split = {"batch_size": batch_size, "accum_freq": accum_freq, "world_size": world_size}
        parts = [list(loader_of(index, rank=rank, **split)) for rank in range(world_size)]
        for step, (keys, images) in enumerate(whole):
            mine = [batch for rank in parts for batch in rank[step * accum_freq : (step + 1) * accum_freq]]
            assert [key for batch in mine for key in batch.keys] == keys
            assert torch.equal(torch.cat([batch.images for batch in mine]), images)


@pytest.mark.parametrize("accum_freq", [1, 2])
def test_a_micro_batch_of_several_requests_is_that_of_one(index, monkeypatch, accum_freq):
    whole = list(loader_of(index, batch_size=8 // accum_freq, accum_freq=accum_freq, num_samples=50))
    monkeypatch.setattr("mcl_clip.loading.requests.PIECE", 3)
    for workers in (0, 2):
        loader = loader_of(index, batch_size=8 // accum_freq, accum_freq=accum_freq, num_samples=50, workers=workers)
        assert loader.piece == 3
        for mine, theirs in zip(loader, whole, strict=True):
            assert (mine.keys, mine.layout, mine.step, mine.micro) == (
                theirs.keys, theirs.layout, theirs.step, theirs.micro
            )  # fmt: skip
            assert torch.equal(mine.images, theirs.images) and torch.equal(mine.texts, theirs.texts)


def test_readers_go_on_into_the_next_epoch_and_turn_where_it_is_another(index):
    loader = loader_of(index, workers=2, num_samples=50)
    passes = expected_keys(loader, 0), expected_keys(loader, 1)
    stream = [*passes[0].values(), *passes[1].values(), *expected_keys(loader, 2).values()]
    list(loader)
    readers, begun = loader._readers, loader._loader._iterator
    for epoch in (1, 2):
        assert list(keys_by_step(loader).values()) == stream[7 * epoch : 7 * epoch + 7]
        assert loader._readers is readers
    loader.set_epoch(0)
    batches = iter(loader)
    assert next(batches).keys == stream[0] and loader._readers is not readers
    next(batches)
    assert [batch.keys for batch in loader] == stream[2:7], "from where it stopped"
    assert loader._loader._iterator is begun, "by the same processes"


@pytest.mark.parametrize(
    ("batch_size", "side", "workers"), [(4096, 224, 6), (1000, 224, 6), (64, 224, 2), (4096, 512, 16), (8, 32, 0)]
)
def test_readers_hold_two_micro_batches_or_less_than_their_share_of_memory(batch_size, side, workers):
    piece, ahead = cut(batch_size, 3 * side * side, workers)
    held = piece * ahead * max(workers, 1)
    assert ahead >= 2 and 1 <= piece <= min(batch_size, 64)
    assert held * 3 * side * side <= 768 << 20
    assert held >= min(2 * batch_size, 0.8 * (768 << 20) / (3 * side * side))


class Told(torch.nn.Module):
    """A loss whose value is the layout that it was given."""

    def forward(self, features, *, segments, output_dict):
        return segments


class Stream:
    """What `Transfer` asks of a CUDA stream, told in order."""

    def __init__(self, told):
        self.told = told

    def record_event(self):
        self.told.append("copied")
        return len(self.told)

    def wait_event(self, event):
        self.told.append(("waits", self.told[event - 1]))


def test_the_next_step_is_on_its_way_before_one_is_given(index, monkeypatch):
    """With stand-ins for CUDA's streams: a step is copied on one of its own while the one before is computed."""
    told: list = []
    side, computing = Stream(told), Stream(told)
    inside = []
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext(inside.append(stream)))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: told.append("kept"))
    loader = loader_of(index, num_samples=24)
    loader._transfer._stream = side
    given = []
    for batch in loader:
        given.append(batch.keys)
        told.append(f"step {batch.step}, next read {loader._readers_at}")
    assert given == list(expected_keys(loader, 0).values())[:3]
    arrived = [("waits", "copied"), "kept", "kept"]
    assert told == [
        *("copied", "copied", *arrived, "step 0, next read (0, 2)"),
        *("copied", *arrived, "step 1, next read (1, 0)"),
        *(*arrived, "step 2, next read (1, 0)"),
    ]
    assert set(inside) == {side}


def test_a_virtual_epoch_continues_in_the_next_pass(index):
    loader = loader_of(index, num_samples=50)
    passes = expected_keys(loader, 0), expected_keys(loader, 1)
    stream = [*passes[0].values(), *passes[1].values()]
    assert loader.steps_per_epoch == 7
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        assert list(keys_by_step(loader).values()) == stream[7 * epoch : 7 * epoch + 7]


def ranks_keys(rank, world_size, index, batch_size, accum_freq, workers, state, stop):
    """(keys of a whole epoch, keys after `state` up to step `stop`, state then), gathered from all ranks."""
    multiprocessing.set_start_method("fork", force=True)  # as under torchrun, not as the harness's ranks start
    multiprocessing.current_process()._config["daemon"] = False  # the harness's daemons may not have workers
    split = {"batch_size": batch_size, "accum_freq": accum_freq, "workers": workers}
    whole = keys_by_step(loader_of(index, rank=rank, world_size=world_size, **split))
    loader = loader_of(index, rank=rank, world_size=world_size, **split)
    if state:
        loader.load_state_dict(state)
    seen = {}
    for batch in loader:
        seen.setdefault(batch.step, []).extend(batch.keys)
        if batch.step == stop and batch.micro == accum_freq - 1:
            break
    gathered = [None] * world_size
    torch.distributed.all_gather_object(gathered, (whole, seen))
    return *(merged(parts) for parts in zip(*gathered, strict=True)), loader.state_dict()


def test_real_ranks_deliver_the_plan_and_others_resume_exactly_the_rest(index):
    expected = expected_keys(loader_of(index), 0)
    rest = {step: keys for step, keys in expected.items() if step > 3}
    first, *others = run_ranks(ranks_keys, 2, index, 2, 2, 2, None, 3)
    assert all(other == first for other in others)
    whole, seen, state = first
    assert whole == expected
    assert seen == {step: expected[step] for step in range(4)}
    for whole, after, end in run_ranks(ranks_keys, 4, index, 2, 1, 1, state, None):
        assert whole == expected
        assert after == rest
        assert (end["epoch"], end["step"]) == (1, 0)
    alone = loader_of(index, batch_size=4, accum_freq=2)
    alone.load_state_dict(state)
    assert keys_by_step(alone) == rest


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere readers are spawned")
def test_readers_see_the_end_of_their_trainer_under_any_start_method(index, monkeypatch):
    default = multiprocessing.context._default_context
    monkeypatch.setattr(default, "_actual_context", multiprocessing.get_context("forkserver"))  # as Python 3.14 has it
    loader = loader_of(index, workers=1)
    next(iter(loader))
    (reader,) = loader._loader._iterator._workers
    assert Path(f"/proc/{reader.pid}/stat").read_text().rpartition(")")[2].split()[1] == str(os.getpid())


def test_state_in_the_middle_of_a_step_goes_back_to_its_start(index):
    loader = loader_of(index, batch_size=4, accum_freq=2)
    batches = iter(loader)
    next(batches)
    assert loader.state_dict()["step"] == 0
    next(batches)
    assert loader.state_dict()["step"] == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seed": 6}, "--seed"),
        ({"stage": 2}, "stage"),
        ({"batch_size": 4}, "--batch-size"),
        ({"num_samples": 24}, "--train-num-samples"),
        ({"policy": Policy(min_segment=2, lanes=4, window=11)}, "--mcl-window"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_with_the_reason(index, change, reason):
    state = loader_of(index).state_dict()
    with pytest.raises(UserError, match=reason):
        loader_of(index, **change).load_state_dict(state)


@pytest.mark.parametrize("window", [None, 11])
def test_a_stage_that_began_with_the_narrower_default_window_of_before_goes_on_with_it(index, monkeypatch, window):
    monkeypatch.setattr("mcl_clip.loading.loader.earlier_window", lambda buckets: 5 if buckets == 4 else 1)
    begun = loader_of(index, policy=Policy(min_segment=2, lanes=1, window=5))
    steps = keys_by_step(begun)
    old = loader_of(index, policy=Policy(min_segment=2, lanes=1, window=5)).state_dict() | {"step": 2}
    old["policy"] = {"leftovers": "pack", "min_segment": 2, "lanes": 1, "window": None}
    going_on = loader_of(index, policy=Policy(min_segment=2, lanes=1, window=window))
    if window:
        with pytest.raises(UserError, match="--mcl-window"):
            going_on.load_state_dict(old)
        return
    going_on.load_state_dict(old)
    assert keys_by_step(going_on) == {step: keys for step, keys in steps.items() if step >= 2}
    assert going_on.state_dict()["policy"]["window"] == 5


def test_a_state_of_other_data_or_another_version_is_refused(index, tmp_path):
    state = loader_of(index).state_dict()
    other = loader_of(make_index(tmp_path, 8, 9, seed=1))
    with pytest.raises(UserError, match="data"):
        other.load_state_dict(state)
    with pytest.raises(UserError, match="version"):
        loader_of(index).load_state_dict({**state, "version": 0})


def test_faults_are_counted_logged_and_bounded(tmp_path, caplog):
    index = make_index(tmp_path, 8, 9, broken_image=[(0, 1), (2, 3), (4, 4)])
    loader = loader_of(index, workers=2)
    with caplog.at_level(logging.WARNING):
        keys = [key for batch in loader for key in batch.keys]
    broken = {"00000/000000001", "00002/000020003", "00004/000040004"}
    assert set(loader.faults.why) == broken
    assert all(any(key in message for message in caplog.messages) for key in broken)
    assert len(keys) == 8 * len(loader.plans[0])
    assert not broken & set(keys)
    bounded = loader_of(index, workers=1)
    bounded.faults.limit = 2
    with pytest.raises(UserError, match=r"00002/000020003|00004/000040004"):
        list(bounded)


@pytest.mark.parametrize(("world_size", "accum_freq"), [(1, 1), (2, 1), (2, 2)])
def test_what_is_missing_on_one_rank_is_known_to_all(tmp_path, world_size, accum_freq):
    index = make_index(tmp_path, 1, 8, broken_image=[(0, 4), (0, 6)])
    whole = GlobalBatchLoader(
        labelled(index, [""]), seed=0, stage=0, batch_size=8, transform=TRANSFORM, tokenizer=tokenize, workers=1
    )
    (batch,) = whole
    assert [batch.keys[position] for position in batch.missing] == sorted(
        ("00000/000000004", "00000/000000006"), key=batch.keys.index
    )
    assert whole.faults.missing == {"00000/000000004", "00000/000000006"} and batch.layout.size == 8
    told = []
    for _ in range(2):  # first what each rank gives, then what it gets
        found, union = [], sorted({position for numbers in told for position in numbers})
        for rank in range(world_size):
            loader = GlobalBatchLoader(
                labelled(index, [""]),
                seed=0,
                stage=0,
                batch_size=8 // world_size // accum_freq,
                accum_freq=accum_freq,
                rank=rank,
                world_size=world_size,
                transform=TRANSFORM,
                tokenizer=tokenize,
                union=lambda mine, union=union: told.append(mine) or union,
            )
            found += [part.missing for part in loader]
    assert sorted(position for mine in told[:world_size] for position in mine) == list(batch.missing)
    assert found == [batch.missing] * world_size * accum_freq


def test_a_batch_of_which_nothing_can_be_read_ends_in_one_line(tmp_path):
    index = make_index(tmp_path, 1, 8, broken_image=[(0, sample) for sample in range(8)])
    loader = GlobalBatchLoader(
        labelled(index, [""]), seed=0, stage=0, batch_size=8, transform=TRANSFORM, tokenizer=tokenize
    )
    with pytest.raises(UserError, match="no sample of a whole global batch"):
        list(loader)


@pytest.mark.parametrize(
    ("share", "samples", "ranks", "limit"), [(0.001, 12_400_000, 8, 1550), (0.001, 5000, 1, 100), (0, 10**9, 1, 100)]
)
def test_faults_are_a_share_of_the_data_with_a_floor(share, samples, ranks, limit):
    assert Faults(share, samples, ranks).limit == limit


_LEFT = """
import sys
from tests.test_loader import loader_of
loader = loader_of(sys.argv[1], workers=1)
batches = iter(loader)
print(len(next(batches).keys))
"""


def test_python_ends_with_a_loader_that_nobody_ended(index):
    command = [sys.executable, "-c", _LEFT, str(index)]
    ended = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=90)
    assert (ended.returncode, ended.stdout) == (0, "8\n"), ended.stderr


def test_global_random_state_is_not_moved(index):
    state = torch.random.get_rng_state()
    list(loader_of(index, workers=1))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_open_clips_form_tells_the_loss_the_layout(index):
    loader = loader_of(index)
    data, loss = for_open_clip(loader, Told())
    data.set_epoch(1)
    layouts = [loss("features", output_dict=True) for _ in data.dataloader]
    assert layouts == [loader.plans[1].layout(t) for t in range(len(loader.plans[1]))]
    assert data.dataloader.num_batches == len(layouts)
    assert data.dataloader.num_samples == 8 * len(layouts)
