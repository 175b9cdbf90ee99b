"""Writes zip archives of stored, aligned entries in one pass, byte for byte as torch.save lays them out.

Source: caffe2/serialize/inline_container.cc `PyTorchStreamWriter`, miniz `mz_zip_writer_add_mem_ex_v2`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path
from struct import Struct, pack
from types import TracebackType

from denseport.formats import zip as zips
from denseport.formats.zip import FULL16, FULL32

_EXTRA = Struct("<2H")
_ALIGNMENT_EXTRA = int.from_bytes(b"FB", "little")


class ZipWriter:
    """A new archive at `path`, complete when the context ends without an error.

    Each entry lies in the folder `root`; its content starts at a multiple of `alignment` bytes, fit to be mapped.
    """

    def __init__(self, path: Path, root: str, alignment: int) -> None:
        self._root = root
        self._alignment = alignment
        self._directory = bytearray()
        self._count = 0
        self._file = path.open("wb")

    def __enter__(self) -> ZipWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if kind is None:
                self._write_directory()

    def add(self, name: str, content: Iterable[memoryview | bytes], size: int | None = None) -> int:
        """Writes one entry and returns its CRC-32; `content` is contiguous bytes in pieces, `size` bytes in all.

        Without `size`, `content` is a sequence.
        """
        local, size = self._file.tell(), sum(map(len, content)) if size is None else size
        raw_name = f"{self._root}/{name}".encode()
        wide = b""
        if size >= FULL32:
            wide += pack("<2Q", size, size)
        if local >= FULL32:
            wide += pack("<Q", local)
        if wide:
            wide = _EXTRA.pack(zips.ZIP64_EXTRA, len(wide)) + wide
        unpadded = local + zips.LOCAL.size + len(raw_name) + len(wide) + _EXTRA.size
        padding = -unpadded % self._alignment
        extra = wide + _EXTRA.pack(_ALIGNMENT_EXTRA, padding) + b"Z" * padding
        # The sizes are known only after a stream has been written, and so come in a descriptor behind it.
        flags = zips.UTF8 | (zips.DESCRIPTOR_FOLLOWS if size else 0)
        self._file.write(zips.LOCAL.pack(zips.LOCAL_SIGNATURE, 0, flags, 0, 0, 0, 0, 0, 0, len(raw_name), len(extra)))
        self._file.write(raw_name + extra)
        crc = 0
        for piece in content:
            self._file.write(piece)
            crc = zlib.crc32(piece, crc)
        if size:
            descriptor = zips.DESCRIPTOR64 if wide else zips.DESCRIPTOR
            self._file.write(descriptor.pack(zips.DESCRIPTOR_SIGNATURE, crc, size, size))
        narrow = min(size, FULL32)
        sizes = (crc, narrow, narrow, len(raw_name), len(wide))
        self._directory += zips.CENTRAL.pack(
            zips.CENTRAL_SIGNATURE, 0, 0, flags, 0, 0, 0, *sizes, 0, 0, 0, 0, min(local, FULL32)
        )
        self._directory += raw_name + wide
        self._count += 1
        return crc

    def _write_directory(self) -> None:
        start, size, count = self._file.tell(), len(self._directory), self._count
        self._file.write(self._directory)
        self._file.write(zips.END64.pack(zips.END64_SIGNATURE, 44, 0x031E, 45, 0, 0, count, count, size, start))
        self._file.write(zips.END64_LOCATOR.pack(zips.END64_LOCATOR_SIGNATURE, 0, start + size, 1))
        count, size, start = min(count, FULL16), min(size, FULL32), min(start, FULL32)
        self._file.write(zips.END.pack(zips.END_SIGNATURE, 0, 0, count, count, size, start, 0))
