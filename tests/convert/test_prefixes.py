"""Keys of a file without what wrappers of PyTorch add to them."""

import time

import pytest

from convert.prefixes import DEPTH, MANY, below, cleaned


@pytest.mark.parametrize(
    ("keys", "names", "prefix"),
    [
        (["module.fc.weight", "module.fc.bias"], ["fc.weight", "fc.bias"], "module."),
        (["module.fc.weight", "fc.bias"], ["module.fc.weight", "fc.bias"], ""),
        (["module.module.a", "module.b"], ["module.a", "b"], "module."),
        (["module._orig_mod.module.a"], ["a"], "module._orig_mod.module."),
        (["layer1._orig_mod.conv.weight", "fc.weight"], ["layer1.conv.weight", "fc.weight"], ""),
        (["_fsdp_wrapped_module.a._fsdp_wrapped_module.b", "_fsdp_wrapped_module.c"], ["a.b", "c"], None),
        (["a._checkpoint_wrapped_module._orig_mod.b"], ["a.b"], ""),
        (["_forward_module.model.a"], ["model.a"], "_forward_module."),
        (["my_orig_mod.a", "_orig_mod2.a", "a._orig_mod"], ["my_orig_mod.a", "_orig_mod2.a", "a._orig_mod"], ""),
        (["modules.a", "module.b"], ["modules.a", "module.b"], ""),
        (["model.a", "model.b"], ["model.a", "model.b"], ""),
        (["module.", "module.a"], ["module.", "module.a"], ""),
        (["_orig_mod."], ["_orig_mod."], ""),
        ([], [], ""),
    ],
)
def test_prefixes_of_wrappers_are_removed(keys, names, prefix):
    found, removed = cleaned(iter(keys))
    assert found == dict(zip(keys, names, strict=True))
    assert removed == ("_fsdp_wrapped_module." if prefix is None else prefix)


def test_the_counter_of_averaged_weights_is_left_out_only_beside_a_module():
    assert cleaned(["n_averaged", "module.a", "module.b"]) == ({"module.a": "a", "module.b": "b"}, "module.")
    assert cleaned(["_orig_mod.n_averaged", "_orig_mod.module.a"])[0] == {"_orig_mod.module.a": "a"}
    assert cleaned(["n_averaged", "a"])[0] == {"n_averaged": "n_averaged", "a": "a"}
    assert cleaned(["n_averaged"])[0] == {"n_averaged": "n_averaged"}
    assert cleaned(["ema.n_averaged", "ema.module.a", "b"], "ema") == ({"ema.module.a": "a"}, "ema.module.")


@pytest.mark.parametrize("prefix", ["model", "model.", "module.model", "module._orig_mod.model.", "_orig_mod.model"])
def test_a_prefix_keeps_the_keys_below_it(prefix):
    keys = ["module._orig_mod.model.a", "module.model.b.c", "module.models.d", "module.model"]
    assert cleaned(keys, prefix) == ({keys[0]: "a", keys[1]: "b.c"}, "module.")


def test_a_prefix_that_is_a_wrapper_keeps_everything():
    for prefix in ("module", "_orig_mod", "", None):
        assert [*cleaned(["module._orig_mod.a", "module._orig_mod.b"], prefix)[0].values()] == ["a", "b"]


def test_an_unknown_prefix_lists_the_first_parts_that_there_are():
    with pytest.raises(ValueError, match=r"with net\., got keys that begin with model, head$"):
        cleaned(["model.a", "model.b", "head.c"], "net")
    with pytest.raises(ValueError, match=r"\.\.\., l7 and 4 more$|l7 and 4 more$"):
        cleaned([f"l{i}.weight" for i in range(12)], "net")
    with pytest.raises(ValueError, match="got keys that begin with nothing"):
        cleaned([], "net")


def test_two_keys_that_become_one_are_refused():
    with pytest.raises(ValueError, match=r"got a\._orig_mod\.b and a\.b for one array"):
        cleaned(["a._orig_mod.b", "a.b"])


@pytest.mark.parametrize(
    "keys",
    [
        ["module." * 60_000 + "a"],
        ["module." * 60_000],
        ["_orig_mod." * 60_000 + "a", "_orig_mod.b", "module.c"],
        ["module." * 60_000 + "a", "module." * 60_000 + "b"],
        [f"module.layer{i // 7}.block{i % 7}._orig_mod.conv.weight" for i in range(20_000)],
    ],
)
def test_long_keys_and_many_keys_take_linear_time(keys):
    start = time.perf_counter()
    cleaned(keys)
    cleaned(keys, keys[0].partition(".")[0])
    assert len(below(keys)) <= MANY
    assert time.perf_counter() - start < 1


def test_sub_trees_with_more_keys_come_first():
    keys = ["model.net.a", "model.net.b.c", "model.net.b.d", "head.weight"]
    assert below(keys) == ["model.", "model.net.", "model.net.b."]
    assert below([]) == below(["a", "b", "a.b"]) == []
    assert len(below(["a." * 100 + "x", "a." * 100 + "y"])) == DEPTH
