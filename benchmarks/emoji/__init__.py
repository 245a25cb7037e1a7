"""Real drawings with human-written names: is multistage training better than controls of equal compute?

packages (npm's, pinned) -> names (which character an icon draws) -> drawings (pixels, caption, attributes)
-> sets (shards of every package; pairs and zero-shot sets of every artist) -> ...
"""
