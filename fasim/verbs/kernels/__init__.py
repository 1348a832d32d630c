"""The real kernels without a GPU: interpreted, compiled, and compared with the model of them."""
