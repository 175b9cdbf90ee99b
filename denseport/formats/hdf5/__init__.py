"""HDF5 without the HDF5 library: strangers' files are read, only what weights need, and `writer` writes.

Every address, size and count is checked against the file before use, and all work is bounded by the file's size. What
Keras never writes is refused by name. README.md says what that is, and why h5py is not used.

Source: "HDF5 File Format Specification Version 3.0", The HDF Group; the modules name its sections.
"""

from denseport.formats.hdf5.datasets import Dataset
from denseport.formats.hdf5.file import File
from denseport.formats.hdf5.groups import Group, open_root

__all__ = ["Dataset", "File", "Group", "open_root"]
