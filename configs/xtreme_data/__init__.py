"""Presets of configs/xtreme_r.py."""
