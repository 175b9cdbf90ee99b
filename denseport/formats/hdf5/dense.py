"""Version 2 B-trees and the fractal heap: how newer files keep many links, many attributes and some chunks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from denseport.formats.hdf5.file import UNDEFINED, Fields, File

HUGE_OBJECTS = 1
LINK_NAMES = 5
ATTRIBUTE_NAMES = 8
# How many bytes of a record come before the identifier of the object in the heap.
BEFORE_IDENTIFIER = {LINK_NAMES: 4, ATTRIBUTE_NAMES: 0}
MANAGED, HUGE, TINY = range(3)
# Ten levels index more than a file can hold.
DEPTH_AT_MOST = 10


def objects(file: File, heap: int, tree: int, kind: int, what: str) -> Iterator[bytes]:
    """Each object of a heap that a tree of names lists: the bodies of link or attribute messages.

    Raises:
        FormatError: Heap or tree are broken, or an object is too large to lie in the heap itself.
    """
    fractal_heap = FractalHeap.read(file, heap, what)
    for record in records(file, tree, kind, what):
        start = BEFORE_IDENTIFIER[kind]
        yield fractal_heap.object(record[start : start + fractal_heap.identifier_size])


def records(file: File, address: int, kind: int, what: str) -> Iterator[bytes]:
    """The records of a version 2 B-tree, in order.

    Raises:
        FormatError: The tree is broken or of another kind.

    Source: section III.A.2, "Disk Format: Level 1A2 - Version 2 B-trees".
    """
    header = Fields(file, file.verify(file.at(address, 38, what), what), what)
    signature, _, found, node_size, record_size, depth = header.take(4), *header.unpack("BBIHH")
    header.take(2)
    root, count = header.unpack("QH")
    if signature != b"BTHD" or found != kind or not record_size or node_size < 16 or depth > DEPTH_AT_MOST:
        raise file.broken(f"{what} has no index at address {address}")
    if root == UNDEFINED:
        return
    widths = _pointer_widths(node_size, record_size, depth)
    yield from _node(file, (root, count), depth, kind, node_size, record_size, widths, what)


def _pointer_widths(node_size: int, record_size: int, depth: int) -> list[tuple[int, int]]:
    """For each level, the bytes that a child's number of records and its total take; the library computes both."""
    most = total = (node_size - 10) // record_size
    width = _bytes_for(most)
    widths, total_width = [(0, 0)], 0
    for _ in range(depth):
        widths.append((width, total_width))
        most = (node_size - 10 - (8 + width + total_width)) // (record_size + 8 + width + total_width)
        total = (most + 1) * total + most
        total_width = _bytes_for(total)
    return widths


def _node(
    file: File,
    pointer: tuple[int, int],
    level: int,
    kind: int,
    node_size: int,
    record_size: int,
    widths: list[tuple[int, int]],
    what: str,
) -> Iterator[bytes]:
    address, count = pointer
    count_width, total_width = widths[level]
    length = 6 + count * record_size + ((count + 1) * (8 + count_width + total_width) if level else 0) + 4
    if length > node_size:
        raise file.broken(f"{what} has an index node of {count} records at address {address}")
    fields = Fields(file, file.verify(file.at(address, length, what), what), what)
    if fields.take(6) != (b"BTIN" if level else b"BTLF") + bytes((0, kind)):
        raise file.broken(f"{what} has no index node at address {address}")
    found = [fields.take(record_size) for _ in range(count)]
    if not level:
        yield from found
        return
    for index in range(count + 1):
        child, child_count = fields.integer(8), fields.integer(count_width)
        fields.take(total_width)
        yield from _node(file, (child, child_count), level - 1, kind, node_size, record_size, widths, what)
        yield from found[index : index + 1]


@dataclass(frozen=True, slots=True)
class FractalHeap:
    """Objects of any length in blocks that double in size.

    Source: section III.G, "Disk Format: Level 1G - Fractal Heap".
    """

    file: File
    what: str
    identifier_size: int
    offset_size: int
    length_size: int
    table_width: int
    block_size: int
    largest_block: int
    root: int
    root_rows: int
    huge: dict[int, tuple[int, int]]

    @classmethod
    def read(cls, file: File, address: int, what: str) -> FractalHeap:
        """The heap whose header lies at an address.

        Raises:
            FormatError: There is none, or it is filtered.
        """
        fields = Fields(file, file.at(address, 146, what), what)
        signature, identifier_size, filters, _ = fields.take(5), *fields.unpack("HHB")
        largest_object, _, huge_tree = fields.unpack("IQQ")
        fields.take(80)
        width, block_size, largest_block, offset_bits = fields.unpack("HQQH")
        fields.take(2)
        root, rows = fields.unpack("QH")
        if signature != b"FRHP\0" or not width or not block_size or block_size > largest_block:
            raise file.broken(f"{what} has no heap at address {address}")
        if filters:
            raise file.refused(f"{what} has a compressed heap", "save it again with Keras")
        file.verify(file.at(address, 146, what), what)
        length_size = min(_bytes_for(largest_block - 1), _bytes_for(largest_object))
        offset_size = (offset_bits + 7) // 8
        huge = _huge_objects(file, huge_tree, what) if huge_tree != UNDEFINED else {}
        return cls(
            file, what, identifier_size, offset_size, length_size, width, block_size, largest_block, root, rows, huge
        )

    def object(self, identifier: bytes) -> bytes:
        """The object of an identifier.

        Raises:
            FormatError: It does not lie in a block of the heap.
        """
        fields = Fields(self.file, identifier, self.what)
        (kind,) = fields.unpack("B")
        kind = kind >> 4 & 0b11
        if kind == TINY:
            return fields.take(1 + (identifier[0] & 0x0F))
        if kind == HUGE:
            address, length = self.huge.get(fields.integer(min(fields.left, 8)), (UNDEFINED, 0))
            return self.file.at(address, length, self.what)
        offset, length = fields.integer(self.offset_size), fields.integer(self.length_size)
        return self.file.at(self._address(offset), length, self.what)

    def _address(self, offset: int) -> int:
        """Where the byte at an offset of the heap lies in the file: down the rows of blocks to a direct one."""
        block, rows = self.root, self.root_rows
        while rows:
            row, size, start = 0, self.block_size, 0
            while offset >= start + size * self.table_width:
                start += size * self.table_width
                row, size = row + 1, size * 2 if row else size
            if row >= rows:
                raise self.file.broken(f"{self.what} has an object outside its heap")
            column = (offset - start) // size
            entry = block + 13 + self.offset_size + 8 * (row * self.table_width + column)
            block = int.from_bytes(self.file.at(entry, 8, self.what), "little")
            offset -= start + column * size
            # An indirect child holds as many rows as fill its size.
            rows = 0 if size <= self.largest_block else (size // (self.block_size * self.table_width)).bit_length()
        return block + offset


def _huge_objects(file: File, tree: int, what: str) -> dict[int, tuple[int, int]]:
    """Where each object lies that is too large for a block, and its length, by the number that stands for it."""
    found = {}
    for record in records(file, tree, HUGE_OBJECTS, what):
        address, length, number = Fields(file, record, what).unpack("QQQ")
        found[number] = address, length
    return found


def _bytes_for(number: int) -> int:
    return (number.bit_length() + 7) // 8 or 1
