"""`python -m gpu_kernels.measure`: device facts, outputs, times and counters of this GPU."""
