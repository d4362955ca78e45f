"""Starts the HTTP server: reads the settings, builds it, runs it. `python run_server.py --help`."""

from dragon.cli import run
from dragon.cli.processes import server

if __name__ == "__main__":
    run(server, "run_server.py")
