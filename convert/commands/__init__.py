"""The commands of ``flax-attn-convert``, one file for each, and the options that several of them have."""
