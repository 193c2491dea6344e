"""The contents of IDX and .npy files, with headers that may declare what is not there."""

import struct

import numpy as np


def idx(array: np.ndarray, magic: bytes = b"\0\0\x08", shape: tuple[int, ...] | None = None) -> bytes:
    declared = array.shape if shape is None else shape
    return magic + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *declared) + array.tobytes()


def npy(shape: str, body: bytes, descr: str = "'<f8'") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body
