"""Every public class is in the benchmark, or in its list of parts with a reason."""

import functools

import jax
import pytest

from flax_attn.catalog import CATALOG
from flax_attn.catalog.bench import BENCH, CAUSES, PARTS

MEASURED = {entry.makes.__name__ for entry in BENCH}
LEFT_OUT = [name for names in PARTS.values() for name in names]
NAMES = [entry.name for entry in BENCH]


def test_every_class_is_measured_or_a_part():
    classes = {entry.cls.__name__ for entry in CATALOG}
    assert sorted(MEASURED) + sorted(LEFT_OUT) == sorted(MEASURED) + sorted(classes - MEASURED)


def test_names_are_those_of_entries():
    assert len({*NAMES}) == len(NAMES)
    explained = [name for names in CAUSES.values() for name in names]
    assert {*explained} <= {*NAMES}
    assert len({*explained}) == len(explained)


@pytest.mark.parametrize("entry", BENCH, ids=lambda entry: entry.name)
def test_module_can_be_built(entry):
    module = entry.module()
    assert isinstance(module, entry.makes)
    assert all(min(struct.shape) > 0 for struct in entry.structs(module))


@pytest.mark.slow
@pytest.mark.parametrize("entry", BENCH, ids=lambda entry: entry.name)
def test_module_takes_its_inputs(entry):
    module, structs = entry.module(), entry.structs(entry.module())
    args, call = entry.arguments(structs)
    variables = jax.eval_shape(functools.partial(module.init, **entry.call), jax.random.key(0), *args, **{
        name: struct for name, struct in call.items() if name not in entry.call
    })  # fmt: skip
    out = jax.eval_shape(functools.partial(entry.apply, module), variables, structs)
    assert len(jax.tree.leaves(out)) == len(entry.outputs)
