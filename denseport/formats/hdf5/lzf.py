"""The LZF compression, which h5py offers beside gzip; read only.

Source: LibLZF 3.6 `lzf_d.c`; h5py `lzf/lzf_filter.c`, which stores the bare stream.
"""

from __future__ import annotations

# Smaller control bytes count literal bytes; in others, three bits say how much to repeat, and this that more follows.
LITERALS = 1 << 5
LONG = 0b111


def decompressed(data: bytes | bytearray, most: int) -> bytearray:
    """The bytes that a stream stands for, `most` of them at most.

    Raises:
        ValueError: The stream ends early, repeats bytes before its start, or grows beyond `most`.
    """
    grown = bytearray()
    position = 0
    try:
        while position < len(data):
            control = data[position]
            position += 1
            if control < LITERALS:
                literals = data[position : position + control + 1]
                if len(literals) <= control:
                    raise ValueError("it ends early")
                grown += literals
                position += len(literals)
            else:
                length = control >> 5
                if length == LONG:
                    length += data[position]
                    position += 1
                distance = ((control & 0b11111) << 8 | data[position]) + 1
                position += 1
                _repeat(grown, distance, length + 2)
            if len(grown) > most:
                raise ValueError(f"it grows beyond {most} bytes")
    except IndexError:
        raise ValueError("it ends early") from None
    return grown


def _repeat(grown: bytearray, distance: int, length: int) -> None:
    """Appends what stands `distance` bytes before the end, again and again where that is less than `length`."""
    start = len(grown) - distance
    if start < 0:
        raise ValueError("it repeats bytes before its start")
    part = grown[start : start + length]
    grown += (part * (length // len(part) + 1))[:length] if len(part) < length else part
