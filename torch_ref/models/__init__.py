"""The PyTorch twin of flax_attn.models."""
