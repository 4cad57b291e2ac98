"""Raises while it is imported."""


def deep():
    raise ValueError("broken on purpose")


deep()
