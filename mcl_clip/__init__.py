"""Multistage contrastive learning (MCL, ECCV 2024) for CLIP-like models, as an extension of open_clip."""

__version__ = "0.1.0"

from mcl_clip import models as models  # registers the towers of the demo with timm and open_clip
