"""Figures of finished runs and of noise schedules."""
