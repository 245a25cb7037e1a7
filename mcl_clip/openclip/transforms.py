"""Image transforms and their configuration."""

from open_clip import OPENAI_DATASET_MEAN as OPENAI_DATASET_MEAN
from open_clip import OPENAI_DATASET_STD as OPENAI_DATASET_STD
from open_clip.transform import AugmentationCfg as AugmentationCfg
from open_clip.transform import PreprocessCfg as PreprocessCfg
from open_clip.transform import image_transform_v2 as image_transform_v2
from open_clip.transform import merge_preprocess_dict as merge_preprocess_dict
