"""Measurements of flaxfer and other trainers; run as modules from the repository root."""
