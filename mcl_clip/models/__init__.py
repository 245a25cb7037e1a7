"""Models on disk, and the small towers of the demo and the tests, which open_clip knows after this import."""

from pathlib import Path

from mcl_clip.models import small_stem as small_stem
from mcl_clip.models import tiny_conv as tiny_conv
from mcl_clip.openclip.configs import add_model_config

add_model_config(Path(__file__).parent / "model_configs")
