"""Encoders with heads, in Flax NNX, and their pretrained weights."""
