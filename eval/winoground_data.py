"""The earlier name of `eval.data.winoground`."""

from eval.data.winoground import open_examples

__all__ = ["open_examples"]
