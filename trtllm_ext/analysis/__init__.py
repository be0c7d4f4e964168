"""The residual stream of checkpoints and engines made visible: what writes it, what reads it, what fills it.

docs/residual_stream.md is for users. `report` is what all of it is shown with. Nothing is imported here, so that a
command loads what it needs and no more.
"""
