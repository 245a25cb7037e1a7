"""Names of models and the configurations of their architectures."""

from open_clip import add_model_config as add_model_config
from open_clip import get_model_config as get_model_config
from open_clip import list_models as list_models
from open_clip.factory import parse_model_name as parse_model_name
