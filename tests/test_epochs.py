"""Plans of a run are made when asked for, and few are kept."""

import pickle

import numpy as np

from mcl_clip.plan import epochs
from mcl_clip.plan.epochs import EpochPlans
from mcl_clip.plan.policy import Policy


def test_the_last_two_plans_are_kept_and_no_more(monkeypatch):
    made = []

    def make_plan(*arguments, epoch, **options):
        made.append(epoch)
        return f"plan {epoch}"

    monkeypatch.setattr(epochs, "make_plan", make_plan)
    plans = EpochPlans([""], np.array([0]), np.array([13]), seed=3, stage=1, global_batch=4, policy=Policy())
    # What is prefetched may be a pass ahead of what is trained on.
    assert [plans[epoch] for epoch in (0, 1, 0, 1, 2, 1, 2)] == [f"plan {epoch}" for epoch in (0, 1, 0, 1, 2, 1, 2)]
    assert made == [0, 1, 2]
    assert plans[0] == "plan 0" and made == [0, 1, 2, 0]
    assert sorted(plans._made) == [0, 2]
    assert pickle.loads(pickle.dumps(plans))._made == {}
