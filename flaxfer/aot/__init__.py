"""Ahead-of-time compilation of the steps of a config for an absent accelerator."""
