"""Leaderboards: every model tuned on validation with one budget, then all winners compared over seeds.

The searches are those of `sweep`, the runs and tables those of `compare`.
"""
