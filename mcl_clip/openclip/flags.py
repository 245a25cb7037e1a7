"""open_clip_train's command line."""

from open_clip_train.params import parse_args as parse_args
