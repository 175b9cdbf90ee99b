"""A file within another: gzip around it, and a tar archive that holds it alone.

Source: RFC 1952; POSIX.1-2017, pax "ustar Interchange Format".
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

from denseport.errors import FormatError, listed, quoted

COPY_AGAIN = "copy or download the file again"
UNPACK = "unpack it, and give the file that holds the weights"
GZIP = b"\x1f\x8b\x08"
# Weights are noise and shrink by a tenth; a much larger promise is no checkpoint.
MAX_INFLATION = 16
FREE_INFLATION = 128 << 20
MAX_INFLATED = 4 << 30

_PIECE = 1 << 20
_BLOCK = 512
_MAX_MEMBERS = 4096
# Headers of tar that say more of the next member, and folders.
_NOT_FILES = frozenset(b"xgLK5")

Read = Callable[[int, int], bytes]


def inflated(shown: object, read: Read, size: int) -> bytes:
    """What gzip was put around, which is bounded by the size of the file.

    Raises:
        FormatError: It is cut off, broken, or promises far more than it stores.
    """
    limit = min(max(MAX_INFLATION * size, FREE_INFLATION), MAX_INFLATED)
    stream, parts, made = zlib.decompressobj(16 + zlib.MAX_WBITS), list[bytes](), 0
    try:
        for start in range(0, size, _PIECE):
            data = read(start, _PIECE)
            while data and not stream.eof:
                parts.append(stream.decompress(data, _PIECE))
                made += len(parts[-1])
                if made > limit:
                    raise FormatError(f"{shown}: inflates to over {limit} bytes; unpack it: gunzip")
                data = stream.unconsumed_tail
    except zlib.error:
        raise FormatError(f"{shown}: is no sound gzip file; {COPY_AGAIN}") from None
    if not stream.eof or stream.unused_data:
        raise FormatError(f"{shown}: its gzip data end too early, or something follows; {COPY_AGAIN}")
    return b"".join(parts)


def member(shown: object, read: Read, size: int) -> tuple[int, int] | None:
    """Where the one file in a tar archive begins, and its size; None where it is no tar archive.

    Raises:
        FormatError: It holds several files or none, or is broken.
    """
    if read(257, 5) != b"ustar":
        return None
    files: dict[str, tuple[int, int]] = {}
    position = 0
    for _ in range(_MAX_MEMBERS):
        header = read(position, _BLOCK)
        if len(header) < _BLOCK or not header.strip(b"\0"):
            break
        digits = header[124:136].strip(b" \0")
        if not digits.isdigit() or header[257:262] != b"ustar":
            raise FormatError(f"{shown}: is no sound tar archive; {UNPACK}")
        length = int(digits, 8) if set(digits) <= {*b"01234567"} else size
        name = header[:100].rstrip(b"\0").decode("utf-8", "replace")
        start = position + _BLOCK
        if start + length > size:
            raise FormatError(f"{shown}: its tar archive ends before {quoted(name)} does; {COPY_AGAIN}")
        if header[156] not in _NOT_FILES and not name.rpartition("/")[2].startswith("._"):
            files[name] = (start, length)
        position = start + -(-length // _BLOCK) * _BLOCK
    if len(files) != 1:
        raise FormatError(f"{shown}: is a tar archive of {listed(files, 4) or 'nothing'}; {UNPACK}")
    return next(iter(files.values()))
