"""Measurements of flaxfer beside other trainers; run as modules from the root of the repository."""
