"""The lower bound of a conversion: map the file, transpose, write; `INDEX.json SRC DST`.

Where each tensor lies and goes is known beforehand from INDEX.json; nothing is recognised, checked, read back or
synced. A .h5 is written by h5py, a .safetensors as it is, a .pth as the zip file of its tensors without the pickle.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable

import h5py
import numpy as np

Named = Iterable[tuple[str, np.ndarray]]


def write_h5(arrays: Named, path: str) -> None:
    with h5py.File(path, "w") as file:
        for name, array in arrays:
            file.create_dataset(name, data=array)


def write_zip(arrays: Named, path: str) -> None:
    from zipfile import ZipFile

    with ZipFile(path, "w") as archive:
        for name, array in arrays:
            archive.writestr(name, array.tobytes())


def write_safetensors(arrays: Named, path: str, beginning: bytes) -> None:
    with open(path, "wb") as file:  # noqa: PTH123 - pathlib is one more import
        file.write(beginning)
        for _, array in arrays:
            array.tofile(file)


def main(index: str, src: str, dst: str) -> None:
    with open(index) as file:  # noqa: PTH123
        known = json.load(file)
    source = np.memmap(src, np.uint8, "r")
    arrays = (
        (
            each["name"],
            np.ndarray(each["shape"], each["dtype"], source, each["offset"]).transpose(each["axes"]),
        )
        for each in known["tensors"]
    )
    if dst.endswith(".h5"):
        write_h5(arrays, dst)
    elif dst.endswith(".pth"):
        write_zip(arrays, dst)
    else:
        write_safetensors(arrays, dst, known["beginning"].encode("latin-1"))


if __name__ == "__main__":
    main(*sys.argv[1:])
