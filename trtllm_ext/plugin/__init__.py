"""Plugins for the sublayers: one record an operation, and the CUDA kernels behind them."""
