"""Searches for hyper-parameters on Ray Tune."""
