"""What the real compilers of accelerators say about a step, on machines without the accelerator."""
