"""What running a detector as integers gains, and whether it still is the same detector."""
