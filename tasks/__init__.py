"""The tasks that come with dragon. A module in this folder is imported by itself; see docs/adding-a-task.md."""
