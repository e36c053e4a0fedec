"""Semantic IDs of items: a few digits each, made from item vectors such that near items share their first digits."""
