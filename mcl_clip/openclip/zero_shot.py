"""ImageNet's class names, prompt templates, and the classifier that is made of them."""

from open_clip import IMAGENET_CLASSNAMES as IMAGENET_CLASSNAMES
from open_clip import OPENAI_IMAGENET_TEMPLATES as OPENAI_IMAGENET_TEMPLATES
from open_clip import SIMPLE_IMAGENET_TEMPLATES as SIMPLE_IMAGENET_TEMPLATES
from open_clip import build_zero_shot_classifier as build_zero_shot_classifier
