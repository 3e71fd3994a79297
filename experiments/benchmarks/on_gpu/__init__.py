"""What `gpu.py` measures: rows, each run in a process of its own."""
