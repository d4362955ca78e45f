"""What the image tasks work with: sizes, sources, colours, drawing, writing.

A folder of its own because the modules of `tasks` are all imported at start, those below it only when a task runs: the
server never loads Pillow.
"""
