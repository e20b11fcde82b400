"""Element types: torch's names, their sizes, and how numpy holds them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

AnyArray = npt.NDArray[Any]
Singles = npt.NDArray[np.float32]

# What each readable type is handed out as. numpy has no bfloat16 and no float8, and a bool of a
# stranger's file may hold any byte, so those come as unsigned integers of the same size.
STORAGE_DTYPES: dict[str, np.dtype[np.generic]] = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(np.uint16),
    "float8_e4m3fn": np.dtype(np.uint8),
    "float8_e4m3fnuz": np.dtype(np.uint8),
    "float8_e5m2": np.dtype(np.uint8),
    "float8_e5m2fnuz": np.dtype(np.uint8),
    "float8_e8m0fnu": np.dtype(np.uint8),
    "int64": np.dtype(np.int64),
    "int32": np.dtype(np.int32),
    "int16": np.dtype(np.int16),
    "int8": np.dtype(np.int8),
    "uint64": np.dtype(np.uint64),
    "uint32": np.dtype(np.uint32),
    "uint16": np.dtype(np.uint16),
    "uint8": np.dtype(np.uint8),
    "bool": np.dtype(np.uint8),
}

# A complex tensor is read as its numbers' real and imaginary parts, one after the other: of shape
# (2, 3) as (2, 3, 2) of this type.
COMPLEX_PARTS: dict[str, str] = {
    "complex32": "float16",
    "complex64": "float32",
    "complex128": "float64",
}

# Types that exist in files but are not decoded here: their tensors are listed as unread, with a
# digest of their bytes.
UNREAD_BITS: dict[str, int] = {
    "float6_e2m3fn": 6,
    "float6_e3m2fn": 6,
    "float4_e2m1fn_x2": 8,
    "float4_e2m1fn": 4,
    "qint8": 8,
    "quint8": 8,
    "qint32": 32,
    "quint4x2": 8,
    "quint2x4": 8,
}

SAFETENSORS_DTYPES: dict[str, str] = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "F6_E2M3": "float6_e2m3fn",
    "F6_E3M2": "float6_e3m2fn",
    "F4": "float4_e2m1fn",
    "C64": "complex64",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}

# numpy's codes of kind and item size, little-endian, as its pickles and .npy files name them.
NUMPY_DTYPES: dict[str, str] = {
    "f8": "float64",
    "f4": "float32",
    "f2": "float16",
    "i8": "int64",
    "i4": "int32",
    "i2": "int16",
    "i1": "int8",
    "u8": "uint64",
    "u4": "uint32",
    "u2": "uint16",
    "u1": "uint8",
    "b1": "bool",
    "c8": "complex64",
    "c16": "complex128",
}

# torch.FloatStorage and its kin, as the pickles name them; UntypedStorage counts bytes.
STORAGE_CLASSES: dict[str, str] = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "Float8_e4m3fnStorage": "float8_e4m3fn",
    "Float8_e4m3fnuzStorage": "float8_e4m3fnuz",
    "Float8_e5m2Storage": "float8_e5m2",
    "Float8_e5m2fnuzStorage": "float8_e5m2fnuz",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "UInt64Storage": "uint64",
    "UInt32Storage": "uint32",
    "UInt16Storage": "uint16",
    "ByteStorage": "uint8",
    "UntypedStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexHalfStorage": "complex32",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
}


def element_bits(dtype: str) -> int:
    """Return the bits of one element of `dtype`, a torch name without "torch.".

    Raises KeyError for a name in none of the tables.

    >>> element_bits("bfloat16"), element_bits("complex64"), element_bits("float4_e2m1fn")
    (16, 64, 4)
    """
    if dtype in COMPLEX_PARTS:
        return 2 * element_bits(COMPLEX_PARTS[dtype])
    known = STORAGE_DTYPES.get(dtype)
    return known.itemsize * 8 if known is not None else UNREAD_BITS[dtype]


def is_known(dtype: str) -> bool:
    """Whether the size of an element of `dtype` is known, readable or not.

    >>> is_known("float32"), is_known("float31")
    (True, False)
    """
    return dtype in STORAGE_DTYPES or dtype in COMPLEX_PARTS or dtype in UNREAD_BITS
