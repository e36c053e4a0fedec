"""Generative and dual-sequence sequential recommendation on RecBole 1.2.1."""

from recbole_gen import compat

compat.apply()

__version__ = "0.1.0"
