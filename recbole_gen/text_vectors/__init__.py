"""Vectors of the items of a data set, from their texts, by a sentence encoder."""
