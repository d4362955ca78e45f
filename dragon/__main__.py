"""`python -m dragon` is `dragon`."""

from dragon.cli import main

if __name__ == "__main__":
    main()
