"""PyTorch state dicts and checkpoint files <-> Flax variables, without importing torch."""

from convert.checkpoint import Checkpoint, CheckpointError, load, module_of, read, restore, save
from convert.state_dict import MismatchError, Plan, from_torch, plan, to_torch
