"""What leaves the process: packed checkpoints, integer modules, graphs."""
