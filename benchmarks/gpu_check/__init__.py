"""A check of flaxfer on one NVIDIA GPU: correct, fast beside PyTorch, and resumable."""
