"""The public names, and the file of each. `flax_attn/training/__init__.py` reads this list."""

from .checkpoints import restore as restore, save as save
from .clipping import clip_grad_norm as clip_grad_norm, clip_grad_value as clip_grad_value
from .ema import new_ema as new_ema, update_ema as update_ema
from .freezing import freeze as freeze, frozen_calls as frozen_calls, frozen_leaves as frozen_leaves
from .state import TrainState as TrainState
from .calling import stream_key as stream_key
from .step import eval_step as eval_step, train_step as train_step
