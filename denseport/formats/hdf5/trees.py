"""Version 1 B-trees, which index the links of older groups and the chunks of datasets."""

from __future__ import annotations

from collections.abc import Iterator

from denseport.formats.hdf5.file import Fields, File


def leaves(file: File, address: int, kind: int, key_size: int, what: str) -> Iterator[tuple[bytes, int]]:
    """The key before each child of the tree's lowest nodes, and that child's address, in the order of the keys.

    Levels fall by one from node to child, so that no tree can lead back to itself.

    Args:
        file: The file.
        address: Of the root node.
        kind: 0 for the links of a group, 1 for chunks.
        key_size: Number of bytes of a key.
        what: Whose tree it is, for errors.

    Raises:
        FormatError: A node is not where its parent says, or is none of this tree.

    Source: section III.A.1, "Disk Format: Level 1A1 - Version 1 B-trees".
    """
    pending: list[tuple[int, int | None]] = [(address, None)]
    while pending:
        node, expected = pending.pop()
        fields = Fields(file, file.at(node, 24, what), what)
        signature = fields.take(4)
        found, level, count = fields.unpack("BBH")
        if signature != b"TREE" or found != kind or expected not in (None, level):
            raise file.broken(f"{what} has no index node at address {node}")
        fields = Fields(file, file.at(node + 24, count * (key_size + 8), what), what)
        children = [(fields.take(key_size), fields.integer(8)) for _ in range(count)]
        if level:
            pending.extend((child, level - 1) for _, child in reversed(children))
        else:
            yield from children
