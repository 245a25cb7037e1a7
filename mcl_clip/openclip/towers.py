"""The insides of towers."""

from open_clip.modified_resnet import ModifiedResNet as ModifiedResNet
from open_clip.timm_model import TimmModel as TimmModel
from open_clip.transformer import PatchDropout as PatchDropout
from open_clip.transformer import QuickGELU as QuickGELU
from open_clip.transformer import TextTransformer as TextTransformer
from open_clip.transformer import Transformer as Transformer
from open_clip.transformer import VisionTransformer as VisionTransformer
from open_clip.transformer import text_global_pool as text_global_pool


def is_plain(transformer: object) -> bool:
    """Whether a stack of blocks is open_clip's own and takes [batch, token, width], as version 4's always does."""
    return type(transformer) is Transformer and getattr(transformer, "batch_first", True)
