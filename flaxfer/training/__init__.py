"""One stage: loop, step, optimizer, state and checkpoints."""
