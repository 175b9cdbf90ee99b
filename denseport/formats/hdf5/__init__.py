"""Reads HDF5 files of strangers without the HDF5 library: only what weights need, and nothing is followed unchecked.

The library resolves links by itself, opens other files, and is no match for a hostile file: a group's index that
points at itself ends the process (HDF5 1.14 and 2.0), four changed bytes of a string's reference take 4 GB, and a
compressed chunk may grow without bound. Here every address, size and count is checked against the file before use, all
work is bounded by the file's size, and what Keras never writes (soft and external links, external and virtual storage,
other filters, compound and reference types) is refused by name.

Source: "HDF5 File Format Specification Version 3.0", The HDF Group; the modules name its sections.
"""

from denseport.formats.hdf5.attributes import Attribute
from denseport.formats.hdf5.datasets import Dataset
from denseport.formats.hdf5.file import File
from denseport.formats.hdf5.groups import Group, open_root

__all__ = ["Attribute", "Dataset", "File", "Group", "open_root"]
