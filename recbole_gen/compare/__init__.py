"""Compares models over several seeds: what finished runs say about them, in tables, tests, figures and one page.

Everything that is printed was measured by the runs themselves; nothing is chosen by a test metric here.
"""
