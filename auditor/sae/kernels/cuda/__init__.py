"""The TopK training step on a GPU: Triton kernels around one dense product, and the same arithmetic in plain torch."""
