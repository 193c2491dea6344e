"""The Triton backend: nothing here is imported before a tensor on a GPU, or the backend's name, asks for it."""
