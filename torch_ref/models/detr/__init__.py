"""The twins of flax_attn.models.detr."""
