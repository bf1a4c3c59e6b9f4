"""PyTorch's learning rate schedulers as optax schedules, with PyTorch's arguments.

Each function returns a schedule: a function from the number of scheduler steps taken so far to the learning rate.
Give it to an optimizer in place of a number: ``sgd(lr=step_lr(0.1, 30))``. The optimizer calls it with the number of
its own steps. Where PyTorch steps the scheduler once an epoch, divide first::

    epochs = step_lr(0.1, step_size=30)
    optimizer = sgd(lr=lambda count: epochs(count // steps_per_epoch))

A schedule works elementwise on arrays of counts, and inside ``jax.jit``. In float64 it has PyTorch's values; without
float64 it computes in float32.
"""
