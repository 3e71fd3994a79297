"""PyTorch on one thread: its networks here are small, and idle threads that wait cost time."""

import os

# Read as PyTorch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
