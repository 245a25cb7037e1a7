"""Learning rates: functions of a step that set and return the rate of an optimizer."""

from open_clip_train.scheduler import const_lr as const_lr
from open_clip_train.scheduler import const_lr_cooldown as const_lr_cooldown
from open_clip_train.scheduler import cosine_lr as cosine_lr
