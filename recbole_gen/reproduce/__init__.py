"""The papers' tables, by one command: published settings and their baselines run, and set beside the printed numbers.

Every number of a page comes from the runs or from the section `published` of the setting's file.
"""
