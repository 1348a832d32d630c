"""Kernels on a CPU: outputs against the reference, bytes counted access by access."""
