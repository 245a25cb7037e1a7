"""What of the samples a plan does not take, takes twice, or takes with another pseudo-label."""

from mcl_clip.left_out import Record
from mcl_clip.plan.plan import Plan


def left_out(plan: Plan) -> Record:
    """Counts of one epoch, by reason."""
    small = plan.back_off
    counts = {
        "dropped, leftovers of less than a global batch (--mcl-leftovers drop)": plan.num_dropped,
        "taken again (--train-data-upsampling-factors)": plan.num_repeats,
        "repeated, to fill the last batch": plan.num_padding,
        f"of {small.moved_labels:,} small pseudo-labels, pooled with their siblings": small.moved_samples,
        "under pseudo-labels that stay below --mcl-min-segment": small.lone_samples,
    }
    return {reason: {"count": count, "first": []} for reason, count in counts.items() if count}
