"""Measured rows: files of them, what each measured, which version of a kernel it ran."""
