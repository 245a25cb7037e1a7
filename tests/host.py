"""Tests of what only one version of open_clip has."""

import pytest

from mcl_clip.openclip.version import VERSION


def of_open_clip_3(reason: str) -> pytest.MarkDecorator:
    """Skips a test under a later version, for `reason`."""
    return pytest.mark.skipif(int(VERSION.split(".")[0]) > 3, reason=f"open_clip {VERSION}: {reason}")
