"""What a word of --precision means: the autocast around a forward pass, the dtype of its input."""

from open_clip import get_input_dtype as get_input_dtype
from open_clip_train.precision import get_autocast as get_autocast
