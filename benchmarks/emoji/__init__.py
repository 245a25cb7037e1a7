"""Real drawings with human-written names: is multistage training better than controls of equal compute?

packages (npm's, pinned) -> names (which character an icon draws) -> drawings (pixels) -> data (shards of every package;
pairs and zero-shot sets of every artist) -> world (in memory, one artist held out) -> models, settings (what each arm
trains) -> units (one model, or one arm's scores) -> results -> page (docs/study-emoji/)
"""
