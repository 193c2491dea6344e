"""What Triton's interpreter, which stands in for a device in tests and rehearsals, needs before a kernel runs in it."""

from __future__ import annotations

from functools import cache


@cache
def mend_interpreter() -> None:
    """Let the interpreter of Triton before 3.7 take a loop's bounds from a kernel's arguments with NumPy 2.4 and later.

    It holds a scalar as an array of shape (1,) and calls ``int`` on it, which these NumPy versions refuse; Triton 3.7 squeezes it first.
    """
    import triton
    from triton.runtime import interpreter

    if tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 7):
        return
    patch = interpreter._patch_lang_tensor  # at every launch

    def patch_and_mend(tensor: type, *scope: object) -> None:
        patch(tensor, *scope)
        tensor.__index__ = lambda self: self.handle.data.item()

    interpreter._patch_lang_tensor = patch_and_mend
