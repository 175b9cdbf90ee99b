"""B-trees of both versions, and the fractal heap, whose objects a version 2 B-tree lists by name.

Version 1 indexes the links of older groups and the chunks of datasets; newer files keep many links or attributes of
one object, and some chunks, in version 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from denseport.formats.hdf5.file import UNDEFINED, Fields, Part
from denseport.formats.hdf5.headers import Header, Message

HUGE_OBJECTS = 1
LINK_NAMES = 5
ATTRIBUTE_NAMES = 8
# How many bytes of a record come before the identifier of the object in the heap.
BEFORE_IDENTIFIER = {LINK_NAMES: 4, ATTRIBUTE_NAMES: 0}
MANAGED, HUGE, TINY = range(3)
# Ten levels index more than a file can hold.
DEPTH_AT_MOST = 10


def leaves(part: Part, address: int, kind: int, key_size: int) -> Iterator[tuple[bytes, int]]:
    """The key before each child of a version 1 B-tree's lowest nodes, and that child's address, in the order of keys.

    Levels fall by one from node to child, so that no tree can lead back to itself.

    Args:
        part: Whose tree it is.
        address: Of the root node.
        kind: 0 for the links of a group, 1 for chunks.
        key_size: Number of bytes of a key.

    Raises:
        FormatError: A node is not where its parent says, or is none of this tree.

    Source: section III.A.1, "Disk Format: Level 1A1 - Version 1 B-trees".
    """
    pending: list[tuple[int, int | None]] = [(address, None)]
    while pending:
        node, expected = pending.pop()
        fields = part.fields(node, 24)
        signature = fields.take(4)
        found, level, count = fields.unpack("BBH")
        if signature != b"TREE" or found != kind or expected not in (None, level):
            raise part.broken(f"has no index node at address {node}")
        fields = part.fields(node + 24, count * (key_size + 8))
        children = [(fields.take(key_size), fields.integer(8)) for _ in range(count)]
        if level:
            pending.extend((child, level - 1) for _, child in reversed(children))
        else:
            yield from children


def records(part: Part, address: int, kind: int) -> Iterator[bytes]:
    """The records of a version 2 B-tree, in order.

    Raises:
        FormatError: The tree is broken or of another kind.

    Source: section III.A.2, "Disk Format: Level 1A2 - Version 2 B-trees".
    """
    header = Fields(part, part.verified(address, 38))
    signature, _, found, node_size, record_size, depth = header.take(4), *header.unpack("BBIHH")
    header.take(2)
    root, count = header.unpack("QH")
    if signature != b"BTHD" or found != kind or not record_size or node_size < 16 or depth > DEPTH_AT_MOST:
        raise part.broken(f"has no index at address {address}")
    if root != UNDEFINED:
        widths = _pointer_widths(node_size, record_size, depth)
        yield from _Nodes(part, kind, node_size, record_size, widths).below(root, count, depth)


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


@dataclass(frozen=True, slots=True)
class _Nodes:
    """The nodes of a version 2 B-tree."""

    part: Part
    kind: int
    node_size: int
    record_size: int
    widths: list[tuple[int, int]]

    def below(self, address: int, count: int, level: int) -> Iterator[bytes]:
        """The records of a node of `count`, and of those below it."""
        count_width, total_width = self.widths[level]
        pointers = (count + 1) * (8 + count_width + total_width) if level else 0
        length = 6 + count * self.record_size + pointers + 4
        if length > self.node_size:
            raise self.part.broken(f"has an index node of {count} records at address {address}")
        fields = Fields(self.part, self.part.verified(address, length))
        if fields.take(6) != (b"BTIN" if level else b"BTLF") + bytes((0, self.kind)):
            raise self.part.broken(f"has no index node at address {address}")
        found = [fields.take(self.record_size) for _ in range(count)]
        if not level:
            yield from found
            return
        for index in range(count + 1):
            child, child_count = fields.integer(8), fields.integer(count_width)
            fields.take(total_width)
            yield from self.below(child, child_count, level - 1)
            yield from found[index : index + 1]


def densely_stored(header: Header, info: Message, count_width: int, kind: int) -> Iterator[bytes]:
    """The bodies of the link or attribute messages of an object that has many: in a heap, listed by a tree of `kind`.

    The message `info` says where; the largest creation index in it, where there is one, takes `count_width` bytes.

    Raises:
        FormatError: Heap or tree are broken.
    """
    message = header.only(info)
    if message is None:
        return
    fields = Fields(header, message)
    _, flags = fields.unpack("BB")
    fields.take(count_width if flags & 1 else 0)
    heap, tree = fields.unpack("QQ")
    if heap != UNDEFINED:
        fractal_heap = FractalHeap(header, heap)
        start = BEFORE_IDENTIFIER[kind]
        for record in records(header, tree, kind):
            yield fractal_heap.object(record[start : start + fractal_heap.identifier_size])


class FractalHeap:
    """Objects of any length in blocks that double in size.

    Raises:
        FormatError: There is none at the address, or it is filtered.

    Source: section III.G, "Disk Format: Level 1G - Fractal Heap".
    """

    def __init__(self, part: Part, address: int) -> None:
        self._part = part
        fields = part.fields(address, 146)
        signature, self.identifier_size, filters, _ = fields.take(5), *fields.unpack("HHB")
        largest_object, _, huge_tree = fields.unpack("IQQ")
        fields.take(80)
        self._table_width, self._block_size, self._largest_block, offset_bits = fields.unpack("HQQH")
        fields.take(2)
        self._root, self._root_rows = fields.unpack("QH")
        plausible = self._table_width and 0 < self._block_size <= self._largest_block
        if signature != b"FRHP\0" or not plausible:
            raise part.broken(f"has no heap at address {address}")
        if filters:
            raise part.refused("has a compressed heap")
        part.verified(address, 146)
        self._length_size = min(_bytes_for(self._largest_block - 1), _bytes_for(largest_object))
        self._offset_size = (offset_bits + 7) // 8
        # Where each object lies that is too large for a block, and its length, by the number that stands for it.
        self._huge: dict[int, tuple[int, int]] = {}
        for record in records(part, huge_tree, HUGE_OBJECTS) if huge_tree != UNDEFINED else ():
            where, length, number = Fields(part, record).unpack("QQQ")
            self._huge[number] = where, length

    def object(self, identifier: bytes) -> bytes:
        """The object of an identifier.

        Raises:
            FormatError: It does not lie in a block of the heap.
        """
        fields = Fields(self._part, identifier)
        (kind,) = fields.unpack("B")
        kind = kind >> 4 & 0b11
        if kind == TINY:
            return fields.take(1 + (identifier[0] & 0x0F))
        if kind == HUGE:
            return self._part.at(*self._huge.get(fields.integer(min(fields.left, 8)), (UNDEFINED, 0)))
        offset, length = fields.integer(self._offset_size), fields.integer(self._length_size)
        return self._part.at(self._address(offset), length)

    def _address(self, offset: int) -> int:
        """Where the byte at an offset of the heap lies in the file: down the rows of blocks to a direct one."""
        block, rows = self._root, self._root_rows
        while rows:
            row, size, start = 0, self._block_size, 0
            while offset >= start + size * self._table_width:
                start += size * self._table_width
                row, size = row + 1, size * 2 if row else size
            if row >= rows:
                raise self._part.broken("has an object outside its heap")
            column = (offset - start) // size
            entry = block + 13 + self._offset_size + 8 * (row * self._table_width + column)
            block = int.from_bytes(self._part.at(entry, 8), "little")
            offset -= start + column * size
            # An indirect child holds as many rows as fill its size.
            rows = 0 if size <= self._largest_block else (size // (self._block_size * self._table_width)).bit_length()
        return block + offset


def _bytes_for(number: int) -> int:
    return (number.bit_length() + 7) // 8 or 1
