"""Logs as arrays: histories, splits, times, scenes, and the loaders that make batches of them."""
