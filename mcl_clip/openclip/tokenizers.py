"""Tokenizers by class."""

from open_clip.tokenizer import HFTokenizer as HFTokenizer
from open_clip.tokenizer import SimpleTokenizer as SimpleTokenizer
