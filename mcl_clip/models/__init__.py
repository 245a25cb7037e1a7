"""Models on disk, and the small towers of the demo and the tests, which open_clip knows after this import."""

from pathlib import Path

import open_clip

from mcl_clip.models import tiny_conv as tiny_conv

open_clip.add_model_config(Path(__file__).parent / "model_configs")
