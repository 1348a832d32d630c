from gpu_kernels import forward, backward
def variants(arch): return [v for v in forward.variants(arch)+backward.variants(arch) if v.dtype=='fp16']
