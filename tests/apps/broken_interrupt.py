"""Raises what is no Exception while it is imported."""

raise KeyboardInterrupt
