"""Engines of several ranks: loaded together, checked against each other, agreed before each run, and rehearsed."""
