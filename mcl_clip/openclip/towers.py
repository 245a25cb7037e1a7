"""The insides of towers."""

from open_clip.modified_resnet import ModifiedResNet as ModifiedResNet
from open_clip.timm_model import TimmModel as TimmModel
from open_clip.transformer import QuickGELU as QuickGELU
from open_clip.transformer import TextTransformer as TextTransformer
from open_clip.transformer import Transformer as Transformer
from open_clip.transformer import VisionTransformer as VisionTransformer
from open_clip.transformer import text_global_pool as text_global_pool
