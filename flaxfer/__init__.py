"""flaxfer: intermediate-task transfer across domains and languages, in JAX and Flax."""

__version__ = "0.1.0"
