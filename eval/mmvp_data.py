"""The earlier name of `eval.data.mmvp`."""

from eval.data.mmvp import read_pairs

__all__ = ["read_pairs"]
