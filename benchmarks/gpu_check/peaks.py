"""Peak rates of GPUs, by the names that JAX and PyTorch report."""

from __future__ import annotations

PEAKS = {
    "B200": 2250e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "A40": 149.7e12,
    "A30": 165e12,
    "A10G": 70e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165.2e12,
    "RTX 3090": 71e12,
}
"""bfloat16 FLOP/s with float32 sums and without sparsity, from NVIDIA's data sheets and, for RTX,
its architecture white papers. The first name that a device's name contains counts, so a longer name
stands before its beginning."""


def peak(device: str) -> float | None:
    """Return the bfloat16 FLOP/s of a device by its name; None if it is not in the table."""
    words = f" {device.replace('-', ' ')} "
    return next((rate for name, rate in PEAKS.items() if f" {name} " in words), None)
