"""Multistage contrastive learning (MCL, ECCV 2024) for CLIP-like models, as an extension of open_clip."""

__version__ = "0.1.0"
