"""What is wrong with checkpoints on disk."""


class DamagedError(RuntimeError):
    """A file of a checkpoint is missing or has changed."""
