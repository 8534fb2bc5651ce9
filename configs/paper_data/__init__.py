"""Presets of configs/paper.py."""
