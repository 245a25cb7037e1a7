"""Tags of pretrained weights, and files fetched from the Hugging Face hub."""

from open_clip import list_pretrained_tags_by_model as list_pretrained_tags_by_model
from open_clip.factory import download_pretrained_from_hf as download_pretrained_from_hf
from open_clip.pretrained import get_pretrained_cfg as get_pretrained_cfg
