"""Any dialect becomes any other through the names here, to the bit where both are defined."""

import itertools
import re
from typing import NamedTuple

import numpy as np
import pytest

from convert import MismatchError, translate
from convert.dialects import AUTO, DIALECTS, NATIVE, choose, detect, find_dialect
from tests.catalog.test_golden import GOLDEN, golden
from tests.convert.test_dialects import FOREIGN, numbers, random_state, same_bits, shapes

UNTOLD = [{"mmcv_nonlocal", "mmcv_nonlocal_scaled"}, {"timm_nonlocal", "timm_nonlocal_scaled"}]
"""Dialects with the same keys, which are told apart on purpose by nobody but the user."""

BY_NAME = {"inplace_abn"}
"""A dialect with the keys that are here."""


LATER_BLOCKS = re.compile(r"layers\.([2-9]|\d\d)\.|(layer\d|block\d|stages\.\d\.layers)\.[1-9]")


def small(keys):
    """Random numbers for ``keys``, without the later blocks of a stage, and with few channels."""
    kept = {key: shape for key, shape in keys.items() if not LATER_BLOCKS.search(key)}
    return random_state({k: tuple(n // 16 if n % 16 == 0 and n >= 96 else n for n in s) for k, s in kept.items()})


def written(dialect, state):
    """``state`` in ``dialect``; None if it has no form there."""
    try:
        theirs = dialect.write(state)
    except ValueError:
        return None
    return theirs if dialect.speaks(theirs) and not dialect.read(theirs).problems else None


STATES = {path.stem: small(golden(path.stem)) for path in sorted(GOLDEN.glob("*.json"))}
STATES |= {
    f"foreign {key}": numbers(find_dialect(names[-1]).read(small(shapes(key)))) for key, names in FOREIGN.items()
}
DEFINED = {
    name: {dialect.name: theirs for dialect in DIALECTS if (theirs := written(dialect, state)) is not None}
    for name, state in STATES.items()
}


def test_every_dialect_is_defined_for_some_network():
    found = {dialect for theirs in DEFINED.values() for dialect in theirs}
    assert {dialect.name for dialect in DIALECTS} - found == BY_NAME


SPOKEN = [name for name, theirs in DEFINED.items() if theirs]
SMALLEST = {frozenset(DEFINED[name]): name for name in sorted(SPOKEN, key=lambda name: -len(STATES[name]))}
"""For each set of dialects that some state dict can have, the smallest such state dict."""


def expect_same(a, b, names):
    """``a`` and ``b`` are the same to the bit but for the arrays that are not in ``names``, which are rounded."""
    assert a.keys() == b.keys()
    same_bits({key: a[key] for key in names}, {key: b[key] for key in names})
    for key in a.keys() - names:
        np.testing.assert_allclose(a[key], b[key], rtol=4e-7)


class Known(NamedTuple):
    """A state dict in a dialect, and the names here whose arrays are to be the same to the bit."""

    dialect: str
    state: dict
    exact: set

    def expect(self, found):
        kept = find_dialect(self.dialect).write_names(self.exact)
        expect_same(found, self.state, {part for parts in kept.values() for part in parts})


def exact(name, *dialects):
    """The names here whose arrays all ``dialects`` keep to the bit."""
    shapes = {key: value.shape for key, value in STATES[name].items()}
    return shapes.keys() - {key for dialect in dialects for key in find_dialect(dialect).inexact(shapes)}


@pytest.mark.parametrize("name", SPOKEN)
def test_every_dialect_of_every_network_is_read_as_ours(name):
    for dialect, theirs in DEFINED[name].items():
        expect_same(numbers(find_dialect(dialect).read(theirs)), STATES[name], exact(name, dialect))


@pytest.mark.parametrize("name", SMALLEST.values())
def test_any_dialect_becomes_any_other_and_comes_back(name):
    for first, second in itertools.combinations_with_replacement(DEFINED[name], 2):
        exact_names = exact(name, first, second)
        start, goal = (Known(dialect, DEFINED[name][dialect], exact_names) for dialect in (first, second))
        there = translate(start.state, source=first, target=second)
        goal.expect(there)
        start.expect(translate(there, source=second, target=first))


@pytest.mark.parametrize("name", SPOKEN)
def test_a_dialect_is_detected_as_itself_alone(name):
    for dialect, theirs in DEFINED[name].items():
        found = {one.name for one in detect(theirs)}
        assert found == {dialect} or (dialect in found and found in UNTOLD)


def test_only_named_arrays_are_not_kept_to_the_bit():
    rows = {key: (n, 8 * n, 1, 1) for n in (3, 4) for key in [f"a{n}.theta.weight"]}
    inexact = {dialect.name: dialect.inexact(rows) for dialect in DIALECTS}
    assert {name for name, keys in inexact.items() if keys} == {
        "mmcv_nonlocal_scaled",
        "mmseg_nonlocal",
        "timm_nonlocal_scaled",
    }
    assert inexact["mmcv_nonlocal_scaled"] == ["a3.theta.weight"]
    assert inexact["timm_nonlocal_scaled"] == ["a3.theta.weight", "a4.theta.weight"]
    assert find_dialect("timm_nonlocal_scaled").inexact({"theta.weight": (8, 64, 1, 1)}) == []
    norms = {"bn.weight": (3,), "bn.running_var": (3,), "fc.weight": (2, 3)}
    assert find_dialect("inplace_abn").inexact(norms) == ["bn.weight"]


# What translate says


DETR = STATES["detr_r50"]


def test_translate_finds_the_source_itself_and_gives_new_arrays():
    theirs = translate(DETR, target="hf")
    assert detect(theirs) == [find_dialect("hf")]
    same_bits(translate(theirs), DETR)
    new = translate(theirs, target="mmdet")
    query = new["query_embedding.weight"]
    query[:] = 7
    assert not np.any(theirs["model.query_position_embeddings.weight"] == 7)
    assert all(value.flags.writeable and value.flags.owndata for value in new.values())


def test_translate_takes_torch_tensors_and_leaves_counters_out():
    torch = pytest.importorskip("torch")
    ones = torch.ones(2, 3, 1, 1, dtype=torch.bfloat16)
    state = {"backbone.layer1.0.conv1.weight": ones, "head.fc.bias": torch.ones(2)}
    state["backbone.bn1.num_batches_tracked"] = torch.tensor(3)
    ours = translate(state, source="mmpretrain")
    assert {key: (value.dtype.name, value.shape) for key, value in ours.items()} == {
        "layer1.0.conv1.weight": ("bfloat16", (2, 3, 1, 1)),
        "fc.bias": ("float32", (2,)),
    }


def test_translate_refuses_what_has_no_names_there():
    ours = STATES["insight_se_resnet50"]
    with pytest.raises(ValueError, match=r"expected a state dict of Hugging Face's DETR.*\(hf\), but none of its keys"):
        translate(ours, target="hf")
    with pytest.raises(ValueError, match=r"expected a state dict of the DETR of mmdet 3 \(mmdet\)"):
        translate({"a": np.zeros(2)}, source="mmdet", target="timm")
    with pytest.raises(ValueError, match="inplace_abn can be read and not written"):
        translate(ours, source=NATIVE, target="inplace_abn")
    with pytest.raises(ValueError, match="no dialect is called 'huggingface'"):
        translate(ours, target="huggingface")


def test_translate_lists_all_that_does_not_fit():
    theirs = translate(DETR, target="hf")
    del theirs["model.encoder.layers.0.self_attn.q_proj.weight"]
    theirs["model.encoder.layers.1.self_attn.k_proj.bias"] = np.zeros(3, np.float32)
    with pytest.raises(MismatchError) as error:
        translate(theirs, target="mmdet")
    first, *lines = str(error.value).splitlines()
    assert first == "the state dict does not fit hf: 2 differences"
    assert lines[0].startswith("- model.encoder.layers.0.self_attn.q_proj.weight: expected beside ")
    assert lines[1].startswith("~ model.encoder.layers.1.self_attn.q_proj.bias, ")


# Names that are nearly right


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("HF", "'hf'"), ("mmpretrained", "'mmpretrain'"), ("hf-no-timm", "'hf_no_timm'"), ("nativ", "'native'")],
)
def test_a_wrong_name_suggests_near_ones(wrong, meant):
    with pytest.raises(ValueError, match=rf"no dialect is called {wrong!r}; did you mean {meant}"):
        find_dialect(wrong)


def test_a_name_that_is_near_none_is_refused_with_the_list():
    with pytest.raises(ValueError, match=r"no dialect is called 'zzz'; there are hf, .*, native and auto$"):
        find_dialect("zzz")


def test_keys_of_two_dialects_are_named_with_what_they_mean():
    theirs = DEFINED["NL_embedded_gaussian_2d_ss0_bn1"]["timm_nonlocal"]
    with pytest.raises(ValueError, match="name the dialect") as error:
        choose(AUTO, theirs)
    assert str(error.value) == (
        "the keys may be those of timm_nonlocal or timm_nonlocal_scaled, and they do not show which; name the dialect "
        "(timm_nonlocal is timm's NonLocalAttn with use_scale=False; "
        "timm_nonlocal_scaled is timm's NonLocalAttn with use_scale=True, the default)"
    )
