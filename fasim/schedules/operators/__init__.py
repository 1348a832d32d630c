"""Operators on their own, written in the tile language: a file a family."""
