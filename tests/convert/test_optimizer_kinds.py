"""The class of an optimizer is told from its state dict, and one that has no counterpart is called by its name."""

import pytest

from convert.optimizers.kinds import KINDS, kind_of

torch = pytest.importorskip("torch")
optim = torch.optim

ALL = [
    (optim.SGD, {}),
    (optim.SGD, dict(momentum=0.9, nesterov=True, maximize=True)),
    (optim.SGD, dict(fused=True, momentum=0.9, dampening=0.1)),
    (optim.Adam, dict(weight_decay=0.1)),
    (optim.Adam, dict(amsgrad=True, foreach=True)),
    (optim.Adam, dict(fused=True)),
    (optim.AdamW, {}),
    (optim.AdamW, dict(amsgrad=True, maximize=True)),
    (optim.AdamW, dict(weight_decay=0.0)),
    (optim.NAdam, dict(decoupled_weight_decay=True)),
    (optim.RMSprop, dict(centered=True, momentum=0.1)),
    (optim.RMSprop, {}),
    (optim.Adagrad, dict(lr_decay=0.1)),
    (optim.Adadelta, dict(maximize=True)),
    (optim.RAdam, dict(decoupled_weight_decay=True)),
    (optim.Adamax, {}),
]
YOUNG = {"decoupled_weight_decay", "maximize", "foreach", "fused", "capturable", "differentiable"}


def state_dict(cls, steps=2, **options):
    weight = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = cls([weight], **options)
    for _ in range(steps):
        weight.grad = torch.ones(2, 3)
        optimizer.step()
    return optimizer.state_dict()


def without(groups, names):
    return [{name: value for name, value in group.items() if name not in names} for group in groups]


@pytest.mark.parametrize(("cls", "options"), ALL)
def test_every_supported_class_is_told_from_its_state(cls, options):
    found = state_dict(cls, **options)
    assert kind_of(found["param_groups"], found["state"]).name == cls.__name__


@pytest.mark.parametrize(("cls", "options"), ALL)
@pytest.mark.parametrize("steps", [0, 2])
def test_the_name_that_the_user_gives_is_taken_also_for_files_of_old_versions(cls, options, steps):
    found = state_dict(cls, steps, **options)
    for groups in (found["param_groups"], without(found["param_groups"], YOUNG)):
        assert kind_of(groups, found["state"], cls.__name__.lower()).name == cls.__name__


def test_adam_with_decoupled_decay_has_both_names():
    found = state_dict(optim.Adam, weight_decay=0.1, decoupled_weight_decay=True)
    assert kind_of(found["param_groups"], found["state"], "Adam").name == "Adam"
    assert kind_of(found["param_groups"], found["state"], "AdamW").name == "AdamW"


@pytest.mark.parametrize(
    ("cls", "options", "wrong"),
    [
        (optim.Adam, dict(weight_decay=0.1), "AdamW"),
        (optim.AdamW, {}, "SGD"),
        (optim.RAdam, {}, "Adam"),
        (optim.Adamax, {}, "AdamW"),
        (optim.SGD, {}, "RMSprop"),
    ],
)
def test_a_name_that_the_state_denies_is_refused(cls, options, wrong):
    found = state_dict(cls, **options)
    with pytest.raises(ValueError, match=f"expected the state of {wrong}, got that of .*{cls.__name__}"):
        kind_of(found["param_groups"], found["state"], wrong)


def test_adam_or_adamw_is_asked_or_taken_from_the_published_training():
    found = state_dict(optim.AdamW)
    groups = without(found["param_groups"], YOUNG)
    with pytest.raises(ValueError, match="Adam or AdamW, which look the same in this file; say which"):
        kind_of(groups, found["state"])
    assert kind_of(groups, found["state"], published="adamw").name == "AdamW"
    assert kind_of(groups, found["state"], published="sgd", name="adam").name == "Adam"


def test_a_file_with_memory_addresses_is_older_than_radam():
    group = {**dict.fromkeys(("lr", "eps"), 1e-3), "betas": (0.9, 0.99), "weight_decay": 0, "params": [140735886000]}
    state = {140735886000: {"step": 3, "exp_avg": None, "exp_avg_sq": None}}
    assert kind_of([group], state).name == "Adam"
    with pytest.raises(ValueError, match="may be Adam or RAdam"):
        kind_of([{**group, "params": [0]}], {0: state[140735886000]})


@pytest.mark.parametrize("cls", [optim.ASGD, optim.Rprop, optim.LBFGS, optim.SparseAdam])
def test_other_classes_of_pytorch_are_refused_by_name(cls):
    found = state_dict(cls, 0)
    with pytest.raises(ValueError, match=rf"the optimizer is torch\.optim\.{cls.__name__}, which has no counterpart"):
        kind_of(found["param_groups"], found["state"])


ADAM, MOMENTS = ("lr", "betas", "eps", "weight_decay"), ("step", "exp_avg", "exp_avg_sq")
SGD = ("lr", "momentum", "dampening", "weight_decay", "nesterov")
OTHERS = [
    ("Lion", ("lr", "betas", "weight_decay", "maximize", "foreach"), ("exp_avg",)),
    ("transformers.Adafactor", ("lr", "eps", "clip_threshold", "decay_rate", "beta1", "weight_decay"), ("step", "RMS")),
    ("CAME", ("lr", "eps", "clip_threshold", "betas", "weight_decay"), ()),
    ("LAMB", (*ADAM, "bias_correction", "grad_averaging", "max_grad_norm"), ("exp_avg", "exp_avg_sq")),
    ("LAMB", (*ADAM, "bias_correction", "grad_averaging", "max_grad_norm", "trust_clip", "always_adapt"), MOMENTS),
    ("LAMB", ADAM, (*MOMENTS, "weight_norm", "adam_norm", "trust_ratio")),
    ("LARS", (*SGD, "trust_coeff", "eps", "trust_clip", "always_adapt"), ("momentum_buffer",)),
    ("LARS", ("lr", "weight_decay", "momentum", "trust_coefficient"), ("mu",)),
    ("LARS", ("lr", "weight_decay", "momentum", "eta", "weight_decay_filter", "lars_adaptation_filter"), ("mu",)),
    ("NovoGrad", (*ADAM, "bias_correction", "grad_averaging"), ("exp_avg",)),
    ("NovoGrad", (*ADAM, "grad_averaging", "amsgrad"), MOMENTS),
    ("FusedAdam or DeepSpeedCPUAdam", (*ADAM, "bias_correction"), MOMENTS),
    ("bitsandbytes", ADAM, ("step", "state1", "state2", "qmap1", "absmax1")),
    ("Prodigy", (*ADAM, "beta3", "d", "d0", "d_max", "d_coef", "growth_rate"), (*MOMENTS, "s", "p0")),
    ("D-Adaptation", (*ADAM, "d", "k", "growth_rate", "decouple"), (*MOMENTS, "s")),
    ("AdaBelief", (*ADAM, "amsgrad", "buffer"), ("step", "exp_avg", "exp_avg_var")),
    ("AdaBelief", (*ADAM, "amsgrad", "buffer"), ()),
    ("RAdam of its authors", (*ADAM, "buffer"), MOMENTS),
    ("AdaBound", (*ADAM, "final_lr", "gamma", "amsbound"), MOMENTS),
    ("Ranger", (*ADAM, "alpha", "k", "step_counter", "N_sma_threshhold"), (*MOMENTS, "slow_buffer")),
    ("Lookahead", (*ADAM, "amsgrad", "lookahead_alpha", "lookahead_k", "lookahead_step"), MOMENTS),
    ("AdamP or SGDP", (*ADAM, "delta", "wd_ratio", "nesterov"), MOMENTS),
    ("Adan", (*ADAM, "max_grad_norm", "no_prox", "foreach", "fused"), ("exp_avg", "exp_avg_diff")),
    ("Sophia", ("lr", "betas", "rho", "weight_decay", "maximize", "capturable"), ("step", "exp_avg", "hessian")),
    ("Sophia", ("lr", "betas", "rho", "weight_decay", "maximize", "capturable"), ()),
    ("AdaHessian", (*ADAM, "hessian_power"), ("step", "exp_avg", "exp_hessian_diag_sq")),
    ("SAM", (*SGD, "rho", "adaptive"), ("old_p", "momentum_buffer")),
    ("Shampoo", ("lr", "momentum", "weight_decay", "epsilon", "update_freq"), ("step", "precond_0", "inv_precond_0")),
    ("Shampoo", ("lr", "betas", "beta3", "epsilon", "weight_decay", "max_preconditioner_dim"), ()),
    ("MADGRAD", ("lr", "eps", "momentum", "weight_decay", "k"), ("grad_sum_sq", "s", "x0")),
    ("SOAP", (*ADAM, "shampoo_beta", "precondition_frequency", "correct_bias"), MOMENTS),
    ("transformers.AdamW", (*ADAM, "correct_bias"), MOMENTS),
    ("Muon", ("lr", "momentum", "nesterov", "ns_steps"), ("momentum_buffer",)),
    ("torch.optim.Muon", ("lr", "weight_decay", "momentum", "nesterov", "ns_coefficients", "eps", "ns_steps"), ()),
    ("torch.optim.Adafactor", ("lr", "beta2_decay", "eps", "d", "weight_decay"), ("step", "row_var", "col_var")),
]


@pytest.mark.parametrize(("name", "options", "stored"), OTHERS)
def test_other_optimizers_are_refused_by_name(name, options, stored):
    group = dict.fromkeys(options, 0.1) | {"params": [0]}
    with pytest.raises(ValueError, match=f"^the optimizer is {name}.* has no counterpart here; there are SGD, "):
        kind_of([group], {0: dict.fromkeys(stored)} if stored else {})


def test_an_unknown_optimizer_is_refused_with_its_options():
    with pytest.raises(
        ValueError, match="its groups have the options betas, eps, initial_accumulator, lr, weight_deca"
    ):
        kind_of([dict.fromkeys((*ADAM, "initial_accumulator"), 0.1) | {"params": [0]}], {})


def test_the_defaults_are_those_of_pytorch():
    for kind in KINDS:
        group = getattr(optim, kind.name)([torch.nn.Parameter(torch.ones(1))]).param_groups[0]
        shared = kind.defaults().keys() & group.keys()
        assert {*kind.options} <= shared
        assert {name: kind.defaults()[name] for name in shared} == {name: group[name] for name in shared}
