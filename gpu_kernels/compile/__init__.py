"""Compiles kernels ahead of time, without a GPU, and reads what came out.

`python -m gpu_kernels.compile --arch sm_80,sm_90` prints a line of JSON a kernel.
"""
