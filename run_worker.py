"""Starts a worker: reads the settings, builds it, runs it. `python run_worker.py --help`."""

from dragon.cli import run
from dragon.cli.processes import worker

if __name__ == "__main__":
    run(worker, "run_worker.py")
