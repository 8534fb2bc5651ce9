"""Compile the steps of a config for an accelerator that is not there."""
