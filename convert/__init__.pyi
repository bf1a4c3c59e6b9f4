"""The public names, and the file of each. `convert/__init__.py` reads this list, and so do type checkers."""

from .checkpoint import Checkpoint as Checkpoint, load as load, read as read, scan as scan
from .comparing.comparison import compare as compare
from .comparing.report import ComparisonError as ComparisonError, Report as Report
from .optimizer import optimizer_from_torch as optimizer_from_torch, torch_optimizer as torch_optimizer
from .errors import CheckpointError as CheckpointError
from .files.pickled import Inert as Inert
from .files.torch_writer import save_torch as save_torch
from .mismatch import MismatchError as MismatchError
from .precision import HalfPrecisionWarning as HalfPrecisionWarning
from .state_dict import Plan as Plan, from_torch as from_torch, plan as plan, to_torch as to_torch
from .training.run import Run as Run
from .training.run_file import restore_run as restore_run, save_run as save_run
from .training.takeover import (
    from_torch_checkpoint as from_torch_checkpoint,
    start_run as start_run,
    to_torch_checkpoint as to_torch_checkpoint,
)
from .optimizers.torch_optimizer import TorchOptimizer as TorchOptimizer
from .translation import translate as translate
from .variables_file import module_of as module_of, restore as restore, save as save
