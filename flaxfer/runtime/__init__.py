"""Devices, mesh, compilation cache, random bits, progress and files."""
