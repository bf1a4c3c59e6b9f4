"""The public names, and the file of each. `flax_attn/optim/__init__.py` reads this list, and so do type checkers."""

from .optimizers.adadelta import adadelta as adadelta
from .optimizers.adagrad import adagrad as adagrad
from .optimizers.adam import adam as adam, adamw as adamw
from .optimizers.adamax import adamax as adamax
from .optimizers.nadam import nadam as nadam
from .optimizers.radam import radam as radam
from .optimizers.rmsprop import rmsprop as rmsprop
from .optimizers.sgd import sgd as sgd
from .lr_scheduler.cosine import (
    cosine_annealing_lr as cosine_annealing_lr,
    cosine_annealing_warm_restarts as cosine_annealing_warm_restarts,
)
from .lr_scheduler.cycles import (
    cyclic_lr as cyclic_lr,
    cyclic_momentum as cyclic_momentum,
    one_cycle_lr as one_cycle_lr,
    one_cycle_momentum as one_cycle_momentum,
)
from .lr_scheduler.factors import (
    chained_lr as chained_lr,
    constant_lr as constant_lr,
    exponential_lr as exponential_lr,
    linear_lr as linear_lr,
    multi_step_lr as multi_step_lr,
    polynomial_lr as polynomial_lr,
    sequential_lr as sequential_lr,
    step_lr as step_lr,
)
from .lr_scheduler.plateau import PlateauState as PlateauState, ReduceLROnPlateau as ReduceLROnPlateau
