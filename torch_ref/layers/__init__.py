"""What PyTorch itself lacks of flax_attn.layers."""
