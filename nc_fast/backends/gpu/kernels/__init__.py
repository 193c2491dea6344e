"""Triton kernels and nothing else: tensors in, results written to tensors the launcher allocated, no checks."""
