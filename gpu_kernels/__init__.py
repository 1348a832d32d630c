"""Attention kernels in Triton, with the tiles of fasim's schedules; measurements of GPUs.

Importing this package loads neither torch nor triton; its modules do.
"""
