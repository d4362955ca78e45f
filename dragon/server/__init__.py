"""The HTTP edge: one file a dialect, and what they share."""
