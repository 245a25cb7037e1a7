"""The earlier name of `eval.data.classification`."""

from eval.data.classification import open_set

__all__ = ["open_set"]
