"""The PyTorch twin of every module in flax_attn: NCHW, the published state-dict keys, torch as the only import."""
