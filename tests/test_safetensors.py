"""safetensors files: those of the library are read, ours are read by the library, and broken ones are refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from denseport import FormatError
from denseport.checkpoint import Tensor
from denseport.formats import MAX_TENSORS, read, sniff
from denseport.formats import safetensors as ours

DTYPES = ["<f8", "<f4", "<f2", "<i8", "<i4", "<i2", "i1", "u1", "?", ml_dtypes.bfloat16]

F4 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def values(path: Path) -> dict[str, np.ndarray]:
    with ours.read(path) as checkpoint:
        return {name: np.array(tensor.read()) for name, tensor in checkpoint.tensors.items()}


def raw(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=12).filter(lambda name: name != "__metadata__"),
        st.sampled_from(DTYPES).flatmap(
            lambda dtype: arrays_of.arrays(
                np.dtype(dtype) if dtype is not ml_dtypes.bfloat16 else np.dtype("<u2"),
                arrays_of.array_shapes(min_dims=0, min_side=0),
            ).map(lambda array: array.view(ml_dtypes.bfloat16) if dtype is ml_dtypes.bfloat16 else array)
        ),
        max_size=6,
    )
)
def test_what_is_written_is_read_back_and_the_library_reads_the_same(tmp_path_factory, arrays) -> None:
    path = tmp_path_factory.mktemp("safetensors") / "x.safetensors"
    ours.write({name: Tensor.of(array) for name, array in arrays.items()}, {"key": "value"}, path)
    assert ours.read(path).metadata == {"key": "value"}
    back = values(path)
    assert list(back) == list(arrays)
    with safetensors.safe_open(path, "numpy") as file:
        assert file.metadata() == {"key": "value"}
        for name, array in arrays.items():
            assert back[name].dtype == array.dtype
            assert back[name].tobytes() == array.tobytes()
            assert file.get_tensor(name).tobytes() == array.tobytes()


def test_tensors_that_are_not_contiguous_are_written_as_they_read(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)
    ours.write({"x": Tensor.of(array)}, {}, tmp_path / "x.safetensors")
    np.testing.assert_array_equal(safetensors.numpy.load_file(tmp_path / "x.safetensors")["x"], array)


def test_files_of_the_library_are_read(tmp_path: Path) -> None:
    arrays = {"b": np.arange(6, dtype=np.float16).reshape(2, 3), "a": np.array(7, np.int64)}
    safetensors.numpy.save_file(arrays, tmp_path / "x.safetensors", {"format": "np"})
    back = values(tmp_path / "x.safetensors")
    assert all(np.array_equal(back[name], arrays[name]) for name in arrays)
    assert ours.read(tmp_path / "x.safetensors").metadata == {"format": "np"}


@pytest.mark.parametrize("first_byte", [0x80, 0x50])
def test_a_header_length_that_looks_like_a_pickle_or_a_zip_misleads_nobody(tmp_path: Path, first_byte: int) -> None:
    text = json.dumps({"x": F4}).encode()
    path = raw(tmp_path / "x", text + b" " * (first_byte - len(text)), b"\0" * 4)
    assert path.read_bytes()[0] == first_byte
    assert sniff(path) == "safetensors"


@pytest.mark.parametrize("dtype", [">f4", "c8", "S3", ml_dtypes.float8_e5m2])
def test_a_dtype_that_the_format_has_not_is_refused_by_name(dtype: object, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"^x\.safetensors: .*a/kernel.*--dtype float32"):
        ours.write({"a/kernel": Tensor.of(np.zeros(2, dtype))}, {}, tmp_path / "x", "x.safetensors")
    assert not (tmp_path / "x").exists()


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path) -> None:
    """Were it mapped into memory, the process would end with a bus error."""
    path = tmp_path / "x.safetensors"
    ours.write({"x": Tensor.of(np.zeros(100_000, np.float32))}, {}, path)
    with ours.read(path) as checkpoint:
        with path.open("r+b") as file:
            file.truncate(50_000)
        with pytest.raises(FormatError, match="became shorter while it was read; "):
            checkpoint.tensors["x"].read()


@pytest.mark.parametrize(("count", "letters"), [(MAX_TENSORS + 1, 0), (70, 15_000)])
def test_far_more_names_than_a_net_has_are_refused_before_a_net_is_looked_for(
    tmp_path: Path, count: int, letters: int
) -> None:
    tensors = {f"{'x' * letters}{index}": Tensor.of(np.zeros(0, np.float32)) for index in range(count)}
    ours.write(tensors, {}, tmp_path / "x.safetensors")
    assert len(ours.read(tmp_path / "x.safetensors").tensors) == count
    with pytest.raises(FormatError, match=f"holds {count} tensors with names of .*, which no DenseNet has; "):
        read(tmp_path / "x.safetensors")


BROKEN = {
    "a header longer than the file": (struct.pack("<Q", 1 << 40) + b"{}", "claims"),
    "no room for a header": (b"\x01\x00", "too short"),
    "no JSON": ((b"{nonsense}", b""), "no JSON object"),
    "deep JSON": ((b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b""), "no JSON object"),
    "a list": ((b"[]", b""), "no JSON object"),
    "no UTF-8": ((b'{"\xff":1}', b""), "no JSON object"),
    "a name twice": ((b'{"x":%b,"x":%b}' % ((json.dumps(F4).encode(),) * 2), b"\0" * 4), "twice"),
    "metadata of numbers": (({"__metadata__": {"a": 1}}, b""), "table of strings"),
    "an unknown dtype": (({"x": {**F4, "dtype": "F31"}}, b"\0" * 4), "dtype F31"),
    "a negative side": (({"x": {**F4, "shape": [-1]}}, b"\0" * 4), "no proper"),
    "an offset of false": (({"x": {**F4, "data_offsets": [False, 4]}}, b"\0" * 4), "no proper"),
    "an offset of a fraction": (({"x": {**F4, "data_offsets": [0, 4.0]}}, b"\0" * 4), "no proper"),
    "a side of true": (({"x": {**F4, "shape": [True]}}, b"\0" * 4), "no proper"),
    "a fraction": (({"x": {**F4, "shape": [1.0]}}, b"\0" * 4), "no proper"),
    "an entry too many": (({"x": {**F4, "more": 1}}, b"\0" * 4), "no proper"),
    "a tensor beyond the end": (({"x": F4}, b"\0" * 3), "outside"),
    "offsets in reverse": (({"x": {**F4, "data_offsets": [4, 0]}}, b"\0" * 4), "outside"),
    "a shape that overflows": (({"x": {**F4, "shape": [1 << 40, 1 << 40]}}, b"\0" * 4), "does not fill"),
    "a shape too small": (({"x": {**F4, "shape": [0]}}, b"\0" * 4), "does not fill"),
    "an overlap": (({"x": F4, "y": F4}, b"\0" * 4), "overlaps"),
    "a hole": (({"x": F4, "y": {**F4, "data_offsets": [8, 12]}}, b"\0" * 12), "hole"),
    "bytes at the end": (({"x": F4}, b"\0" * 9), "5 bytes at its end"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_files_are_refused_in_one_line(tmp_path: Path, what: str) -> None:
    content, message = BROKEN[what]
    path = tmp_path / "x.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        raw(path, *content)
    with pytest.raises(FormatError, match=message) as caught:
        ours.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
