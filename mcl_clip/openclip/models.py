"""Models of two towers, and the function that builds them without transforms."""

from open_clip import create_model as create_model
from open_clip.model import CLIP as CLIP
from open_clip.model import CustomTextCLIP as CustomTextCLIP
from open_clip.model import set_model_preprocess_cfg as set_model_preprocess_cfg
