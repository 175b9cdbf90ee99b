"""Groups and their links, which must all be hard ones."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import chain
from typing import NamedTuple

from denseport.errors import quoted
from denseport.formats.hdf5.attributes import Attribute, decoded, read_attributes
from denseport.formats.hdf5.btrees import LINK_NAMES, densely_stored, leaves
from denseport.formats.hdf5.datasets import Dataset
from denseport.formats.hdf5.file import UNDEFINED, Fields, File, Part
from denseport.formats.hdf5.headers import Header, Message

LINK_KINDS = {0: "hard", 1: "soft", 64: "external"}
CACHED_SOFT_LINK = 2
# A group that links to itself has paths of any length.
PATH_AT_MOST = 64


class Link(NamedTuple):
    """A name in a group. Only a hard link has an address; `order` is when it was made, where the file tells."""

    name: str
    kind: str
    address: int
    order: int


class Group:
    """A group: links by name, attributes by name.

    Attributes:
        path: Where it was found, from the root, for errors.
        address: Of its object header: the same for all hard links to one group.
    """

    def __init__(self, header: Header, path: str) -> None:
        self._file = header.file
        self._header = header
        self._opened: dict[str, Group | Dataset] = {}
        # Of what was looked at and is not opened yet: to read them again would take time, since they have checksums.
        self._headers: dict[str, Header] = {}
        self.path = path
        self.address = header.address

    @cached_property
    def links(self) -> dict[str, Link]:
        """Every link by name: in order of creation where the file records it, else by name.

        Raises:
            FormatError: The index of the group is broken, a name occurs twice, or a link is no hard one.
        """
        found = sorted(self._links(), key=lambda link: (link.order, link.name))
        for link in found:
            if link.kind != "hard":
                raise self._file.refused(
                    f"{quoted(f'{self.path}/{link.name}')} is no hard link but {link.kind}, which may lead anywhere",
                    "save the weights themselves into one file with model.save_weights",
                )
        links = {link.name: link for link in found}
        if len(links) != len(found):
            raise self._header.broken("has two links of one name")
        return links

    @cached_property
    def attributes(self) -> dict[str, Attribute]:
        """Every attribute by name, in the order of the file; values are not looked at.

        Raises:
            FormatError: One of them cannot be read as far as its name, or a name occurs twice.
        """
        return read_attributes(self._header)

    def child(self, name: str) -> Group | Dataset:
        """What the hard link of this name leads to.

        Raises:
            FormatError: As for `links`, or there is no such link, or it leads to no sound group or dataset.
        """
        if name not in self._opened:
            link = self.links.get(name)
            where = self._below(name)
            if link is None:
                raise self._file.broken(f"{quoted(where)} is named but is not there")
            header = self._headers.pop(name, None) or Header(self._file, link.address, quoted(where))
            self._opened[name] = _open(header, where)
        return self._opened[name]

    def group(self, path: str) -> Group:
        """The group at a path of names joined by `/`, below this one.

        Raises:
            FormatError: As for `child`, or the path is absolute, absurdly long, or has `.` or `..` in it, or leads to a
                dataset.
        """
        found = self._find(path)
        if not isinstance(found, Group):
            raise self._file.broken(f"{quoted(found.path)} is a dataset where a group was expected")
        return found

    def dataset(self, path: str) -> Dataset:
        """The dataset at a path.

        Raises:
            FormatError: As for `group`, or there is a group.
        """
        found = self._find(path)
        if not isinstance(found, Dataset):
            raise self._file.broken(f"{quoted(found.path)} is a group where a dataset was expected")
        return found

    def require_hard_links(self) -> None:
        """Looks at the links of every group below, needed or not; datasets are not opened.

        Raises:
            FormatError: As for `links`, of any of them.
        """
        pending, seen = [self], {self.address}
        while pending:
            group = pending.pop()
            for name, link in group.links.items():
                if link.address in seen:
                    continue
                seen.add(link.address)
                where = group._below(name)
                header = Header(self._file, link.address, quoted(where))
                if _is_group(header):
                    group._opened[name] = inner = Group(header, where)
                    pending.append(inner)
                else:
                    group._headers[name] = header

    def _find(self, path: str) -> Group | Dataset:
        found: Group | Dataset = self
        names = path.split("/")
        if len(names) > PATH_AT_MOST or not {"", ".", ".."}.isdisjoint(names):
            raise self._file.broken(f"{quoted(self.path)} names {quoted(path)}, which is no path of names")
        for name in names:
            if not isinstance(found, Group):
                raise self._file.broken(f"{quoted(found.path)} is a dataset where {quoted(path)} needs a group")
            found = found.child(name)
        return found

    def _below(self, name: str) -> str:
        """The path of a link, which counts as work: one long name may stand before thousands of others."""
        self._file.charge(len(self.path) + len(name))
        return f"{self.path}/{name}"

    def _links(self) -> Iterator[Link]:
        """Source: sections IV.A.2.c, g and r, on the Link Info, Link and Symbol Table messages."""
        header = self._header
        table = header.only(Message.SYMBOL_TABLE)
        if table is not None:
            yield from _symbols(header, *Fields(header, table).unpack("QQ"))
        for body in chain(header.every(Message.LINK), densely_stored(header, Message.LINK_INFO, 8, LINK_NAMES)):
            yield _link(header, body)


def open_root(file: File) -> Group:
    """The group at the top of a file.

    Raises:
        FormatError: There is none, or somewhere below it, needed or not, a link is no hard one.
    """
    root = Group(Header(file, file.root, "the root group"), "")
    root.require_hard_links()
    return root


def _open(header: Header, path: str) -> Group | Dataset:
    if Message.LAYOUT in header.messages:
        return Dataset(header, path)
    if _is_group(header):
        return Group(header, path)
    raise header.broken("is neither a group nor a dataset")


def _is_group(header: Header) -> bool:
    return Message.SYMBOL_TABLE in header.messages or Message.LINK_INFO in header.messages


def _link(part: Part, body: bytes) -> Link:
    fields = Fields(part, body)
    version, flags = fields.unpack("BB")
    if version != 1:
        raise part.broken(f"has a link of version {version}")
    (kind,) = fields.unpack("B") if flags & 0x08 else (0,)
    (order,) = fields.unpack("Q") if flags & 0x04 else (0,)
    fields.take(1 if flags & 0x10 else 0)
    name = fields.take(fields.integer(1 << (flags & 0b11)))
    (address,) = fields.unpack("Q") if kind == 0 else (UNDEFINED,)
    return Link(decoded(part, name), LINK_KINDS.get(kind, "user-defined"), address, order)


def _symbols(part: Part, tree: int, heap: int) -> Iterator[Link]:
    """The links of a group of the older kind: a tree of nodes of symbols whose names lie in a heap.

    Source: sections III.A.1, III.B and III.D, on version 1 B-trees, symbol table nodes and local heaps.
    """
    fields = part.fields(heap, 32)
    signature, size, _, address = fields.take(8), *fields.unpack("QQQ")
    if signature[:4] != b"HEAP":
        raise part.broken(f"has no names at address {heap}")
    names = part.at(address, size)
    for _, node in leaves(part, tree, 0, 8):
        fields = part.fields(node, 8)
        signature, (count,) = fields.take(6), fields.unpack("H")
        if signature[:4] != b"SNOD":
            raise part.broken(f"has no symbols at address {node}")
        fields = part.fields(node + 8, 40 * count)
        for _ in range(count):
            name, header, cached = fields.unpack("QQI20x")
            end = names.find(b"\0", name) if name < len(names) else -1
            if end < 0:
                raise part.broken("has a link whose name lies outside its heap")
            # Names may overlap in the heap.
            part.file.charge(end - name)
            text = decoded(part, names[name:end])
            yield Link(text, "soft", UNDEFINED, 0) if cached == CACHED_SOFT_LINK else Link(text, "hard", header, 0)
