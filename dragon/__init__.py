"""Dragon: a streaming task-queue server."""

__version__ = "0.1.0"
