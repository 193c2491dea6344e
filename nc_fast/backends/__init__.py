"""Where the stages compute: the NumPy reference, the CPU, the GPU."""
