"""The two checksums of HDF5: one over its structures, one over filtered chunks."""

from __future__ import annotations

import numpy as np

WORD = 0xFFFF_FFFF


def lookup3(data: bytes) -> int:
    """Bob Jenkins' hash of 32 bits, which ends each newer structure (those of HDF5 1.8 and later).

    Source: HDF5 `src/H5checksum.c`, `H5_checksum_lookup3`; http://burtleburtle.net/bob/c/lookup3.c, `hashlittle`.
    """

    def rotated(word: int, bits: int) -> int:
        return (word << bits | word >> 32 - bits) & WORD

    a = b = c = (0xDEADBEEF + len(data)) & WORD
    if not data:
        return c
    whole = (len(data) - 1) // 12 * 12
    words = np.frombuffer(data[:whole], "<u4").tolist()
    for index in range(0, len(words), 3):
        a = (a + words[index]) & WORD
        b = (b + words[index + 1]) & WORD
        c = (c + words[index + 2]) & WORD
        a = (a - c) & WORD ^ rotated(c, 4)
        c = (c + b) & WORD
        b = (b - a) & WORD ^ rotated(a, 6)
        a = (a + c) & WORD
        c = (c - b) & WORD ^ rotated(b, 8)
        b = (b + a) & WORD
        a = (a - c) & WORD ^ rotated(c, 16)
        c = (c + b) & WORD
        b = (b - a) & WORD ^ rotated(a, 19)
        a = (a + c) & WORD
        c = (c - b) & WORD ^ rotated(b, 4)
        b = (b + a) & WORD
    last = data[whole:].ljust(12, b"\0")
    a = (a + int.from_bytes(last[:4], "little")) & WORD
    b = (b + int.from_bytes(last[4:8], "little")) & WORD
    c = (c + int.from_bytes(last[8:], "little")) & WORD
    c = ((c ^ b) - rotated(b, 14)) & WORD
    a = ((a ^ c) - rotated(c, 11)) & WORD
    b = ((b ^ a) - rotated(a, 25)) & WORD
    c = ((c ^ b) - rotated(b, 16)) & WORD
    a = ((a ^ c) - rotated(c, 4)) & WORD
    b = ((b ^ a) - rotated(a, 14)) & WORD
    return ((c ^ b) - rotated(b, 24)) & WORD


def is_fletcher32(data: bytes | bytearray, checksum: int) -> bool:
    """Whether `checksum` belongs to the bytes, read as big-endian words of 16 bits.

    Both halves are sums modulo 65,535, in which 0 and 65,535 are the same.

    Source: HDF5 `src/H5checksum.c`, `H5_checksum_fletcher32`.
    """
    words = np.frombuffer(data + bytes(len(data) % 2), ">u2")
    first = second = 0
    for start in range(0, len(words), 1 << 16):
        block = words[start : start + (1 << 16)].astype(np.uint64)
        count = len(block)
        second += count * first + int(block @ np.arange(count, 0, -1, dtype=np.uint64))
        first += int(block.sum())
    return (checksum & 0xFFFF) % 0xFFFF == first % 0xFFFF and (checksum >> 16) % 0xFFFF == second % 0xFFFF
