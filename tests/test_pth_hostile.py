"""PyTorch files that are broken or hostile: each is refused in one line that says why, nothing runs, nothing grows."""

from __future__ import annotations

import io
import pickle
import random
import re
import struct
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from denseport.checkpoint import Tensor
from denseport.errors import DenseportError, FormatError, UsageError
from denseport.formats import pth
from denseport.formats import zip as zips
from denseport.formats.pth import containers, pickles

VALUES = np.arange(4, dtype="<f4")


def raw(value: object) -> bytes:
    """The instructions that make a plain value, without storing any part of it."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, 2)
    pickler.fast = True
    pickler.dump(value)
    return buffer.getvalue()[2:-1]


def storage(kind: str = "torch\nFloatStorage", key: object = "0", count: object = 4, view: bytes = b"") -> bytes:
    return b"(" + raw("storage") + f"c{kind}\n".encode() + raw(key) + raw("cpu") + raw(count) + view + b"tQ"


ORDERED_DICT = b"ccollections\nOrderedDict\n"
NO_GRADIENT_NO_HOOKS = b"\x89" + ORDERED_DICT + b")R"


def tensor(
    offset: object = 0,
    shape: object = (4,),
    strides: object = (1,),
    of: bytes = b"",
    rest: bytes = NO_GRADIENT_NO_HOOKS,
) -> bytes:
    arguments = (of or storage()) + raw(offset) + raw(shape) + raw(strides) + rest
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def state(*values: bytes) -> bytes:
    """The pickle of a dict of such values, named w0, w1, ..."""
    items = b"".join(raw(f"w{index}") + value for index, value in enumerate(values))
    return b"\x80\x02}(" + items + b"u."


def saved(path: Path, data: bytes, compression: int = zipfile.ZIP_STORED, **records: bytes) -> Path:
    """A zip container of a hand-made pickle and storage 0, and of records under other names."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in {"data.pkl": data, "data/0": VALUES.tobytes(), "version": b"3\n", **records}.items():
            archive.writestr(f"archive/{name}", content)
    return path


def saved_legacy(path: Path, data: bytes, keys: object = ("0",), tail: bytes | None = None) -> Path:
    start = [pickle.dumps(value, 2) for value in (torch.serialization.MAGIC_NUMBER, 1001, {}, list(keys))]  # type: ignore[call-overload]
    tail = struct.pack("<q", 4) + VALUES.tobytes() if tail is None else tail
    path.write_bytes(b"".join([*start[:3], data, start[3], tail]))
    return path


def read_all(path: Path) -> dict[str, np.ndarray]:
    with pth.read(path) as checkpoint:
        return {name: np.array(item.read()) for name, item in checkpoint.tensors.items()}


def refused(path: Path, match: str) -> None:
    """Reading the file ends in a FormatError, on one short line that starts with the path."""
    with pytest.raises(FormatError, match=match) as caught:
        read_all(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < 600
    assert "; " in message  # and so a remedy


def test_the_hand_made_files_are_right_as_long_as_nothing_is_wrong(tmp_path: Path) -> None:
    for make in (saved, saved_legacy):
        found = read_all(make(tmp_path / "x.pth", state(tensor(), tensor(1, (2,), (2,)))))
        assert [array.tolist() for array in found.values()] == [[0, 1, 2, 3], [1, 3]]


# ---- pickles


@pytest.mark.parametrize(
    "name",
    [
        "os system",
        "posix system",
        "nt system",
        "subprocess Popen",
        "builtins eval",
        "__builtin__ eval",
        "builtins getattr",
        "torch load",
        "torch.hub load",
        "torch.serialization load",
        "torch._utils _rebuild_tensor_v9",
        "torch._utils._rebuild_tensor v2",
        "torch.serialization os.system",
        "numpy os.system",
        "__main__ subprocess.run",
        "builtins object.__subclasses__",
        "collections OrderedDict.__init__.__globals__",
    ],
)
def test_names_of_attacks_are_refused_before_anything_is_called(tmp_path: Path, name: str) -> None:
    module, attribute = name.split()
    canary = tmp_path / "canary"
    called = raw(f"touch {canary}") + b"\x85R"
    by_line = b"c" + f"{module}\n{attribute}\n".encode()
    by_stack = raw(module) + raw(attribute) + b"\x93"
    for make in (saved, saved_legacy):
        for reference in (by_line, by_stack):
            path = make(tmp_path / "x.pth", state(tensor(), reference + called))
            refused(path, rf"refers to {re.escape(f'{module}.{attribute}')}, code .*torch\.save\(model\.state_dict\(\)")
    assert not canary.exists()


def test_real_malicious_files_are_refused(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> Any:
            return exec, (f"open({str(tmp_path / 'canary')!r}, 'w')",)

    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
    for legacy in (False, True):
        options = {"_use_new_zipfile_serialization": not legacy}
        torch.save({"state_dict": model.state_dict(), "x": Malicious()}, tmp_path / "x.pth", **options)
        refused(tmp_path / "x.pth", "__builtin__.exec")
    assert not (tmp_path / "canary").exists()


UNSUPPORTED_TENSORS: dict[str, tuple[Callable[[], torch.Tensor], str]] = {
    "sparse": (lambda: torch.eye(3).to_sparse(), "sparse.*to_dense"),
    "quantized": (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "quantized.*dequantize"),
    "meta": (lambda: torch.empty(3, device="meta"), "without values"),
    "complex": (lambda: torch.ones(3, dtype=torch.complex64), "torch.ComplexFloatStorage.*convert"),
    "float8": (lambda: torch.ones(3).to(torch.float8_e5m2), "torch.float8_e5m2.*convert"),
    "negated": (lambda: torch.ones(3, dtype=torch.complex64).conj().imag, "Complex|negated"),
}


@pytest.mark.filterwarnings("ignore:.*quantize.*:DeprecationWarning", "ignore:.*quantized.*:UserWarning")
@pytest.mark.parametrize("kind", UNSUPPORTED_TENSORS)
def test_tensors_that_are_not_dense_are_refused_with_what_to_do(tmp_path: Path, kind: str) -> None:
    make, match = UNSUPPORTED_TENSORS[kind]
    torch.save({"weight": make()}, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", match)


def test_a_negated_view_is_refused_whose_bytes_are_not_its_values(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", state(tensor(rest=NO_GRADIENT_NO_HOOKS + raw({"neg": True}))))
    assert torch.load(path, weights_only=True)["w0"].tolist() == [0, -1, -2, -3]
    refused(path, "negated")
    arguments = (
        storage("torch.storage\nUntypedStorage", count=16) + raw(0) + raw((4,)) + raw((1,)) + NO_GRADIENT_NO_HOOKS
    )
    newer = b"ctorch._utils\n_rebuild_tensor_v3\n(" + arguments + b"ctorch\nfloat32\n"
    path = saved(tmp_path / "x.pth", state(newer + raw({"neg": True}) + b"tR"))
    assert torch.load(path, weights_only=True)["w0"].tolist() == [0, -1, -2, -3]
    refused(path, "negated")
    for empty in (b"", b"}"):
        assert read_all(saved(path, state(newer + empty + b"tR")))["w0"].tolist() == [0, 1, 2, 3]
        assert read_all(saved(path, state(tensor(rest=NO_GRADIENT_NO_HOOKS + empty))))["w0"].tolist() == [0, 1, 2, 3]


def nested_tuples(depth: int) -> bytes:
    """A tuple whose hash takes 2 ** depth steps."""
    return b")" + b"".join(b"\x94" + b"j" + struct.pack("<I", n) + b"\x86" for n in range(depth))


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + raw((0,)) + raw(b"b") + b"\x87R"
DTYPE = b"cnumpy\ndtype\n" + raw(("f4", False, True)) + b"R" + raw((3, "<", None, None, None, -1, -1, 0)) + b"b"


PICKLES: dict[str, tuple[bytes, str]] = {
    "no bytes": (b"", "too early"),
    "no stop": (b"\x80\x02}", "too early"),
    "only a stop": (b".", "left over"),
    "values left over": (b"NN.", "left over"),
    "a mark left over": (b"N(N.", "left over"),
    "an empty stack": (b"\x80\x02\x85.", "stack is empty"),
    "an append to nothing": (b"Na.", "stack is empty"),
    "a mark that is missing": (b"\x80\x02t.", "stack is empty"),
    "protocol 6": (b"\x80\x06}.", "protocol: 6"),
    "a short integer": (b"J\x00\x00", "too early"),
    "a short float": (b"G\x00\x00", "too early"),
    "a short text": (b"X\x05\x00\x00\x00abc.", "too early"),
    "a text of 16 EB": (b"\x8d" + b"\xff" * 8 + b"abc.", "too early|exceeds"),
    "an array of bytes of 16 EB": (b"\x96" + b"\xff" * 8 + b"abc.", "too early|exceeds|too large"),
    "bytes of 16 EB": (b"\x8e" + b"\xff" * 8 + b"abc.", "too early|exceeds"),
    "a text that is not UTF-8": (b"X\x01\x00\x00\x00\xff.", "not UTF-8"),
    "a name that is not UTF-8": (b"c\xff\nx\n.", "not UTF-8"),
    "a name without an end": (b"c" + b"x" * 5000 + b"\nx\n.", "no end"),
    "a name that is no text": (raw("os") + b"N\x93.", "requires str"),
    "a module that is no text": (b"N" + raw("system") + b"\x93.", "requires str"),
    "a value never stored": (b"h\x07.", "recalls value"),
    "a value never stored, far": (b"j\xff\xff\xff\xff.", "recalls value"),
    "an integer of 4 GB": (b"\x8b\xff\xff\xff\xff.", "an integer has 4294967295 bytes"),
    "an integer of 300 bytes": (b"\x8b\x2c\x01\x00\x00" + b"\x01" * 300 + b".", "an integer has 300 bytes"),
    "an integer that is no digits": (b"I1_0\n.", "digits"),
    "an integer of many digits": (b"I" + b"1" * 400 + b"\n.", "digits"),
    "257 levels": (b"(" * 257 + b"t" * 257 + b".", "deeper"),
    "an item put into a list": (b"]NNs.", "item into a list"),
    "items put into a tuple": (b")(NNu.", "item into a tuple"),
    "a key without a value": (b"}(Nu.", "without a value"),
    "a key that occurs twice": (b"}(" + raw("a") + b"N" + raw("a") + b"Nu.", "twice"),
    "a key that is a list": (b"}]Ns.", "list for a key"),
    "a key that is a tuple": (b"}" + nested_tuples(64) + b"Ns.", "tuple for a key"),
    "a key that is a huge integer": (b"}" + raw(1 << 63) + b"Ns.", "int for a key"),
    "a set of tuples": (b"\x8f(" + nested_tuples(64) + b"\x90.", "tuple for a key"),
    "a frozen set of tuples": (b"(" + nested_tuples(64) + b"\x91.", "tuple for a key"),
    "a set made of tuples": (b"c__builtin__\nset\n](" + nested_tuples(64) + b"e\x85R.", "tuple for a key"),
    "an ordered dict of tuples": (ORDERED_DICT + b"](" + nested_tuples(64) + b"N\x86e\x85R.", "tuple for a key"),
    "items added to a list": (b"](N\x90.", "is no set"),
    "values appended to a dict": (b"}Na.", "is no list"),
    "more values appended to a tuple": (b")(Ne.", "is no list"),
    "a call of a text": (raw("os.system") + b")R.", "calls a str"),
    "a call of a type of storage": (b"ctorch\nFloatStorage\n)R.", "calls a StorageType"),
    "a call without arguments": (ORDERED_DICT + b"NR.", "without arguments"),
    "a call of a record": (b"ca\nB\n)R)R.", "calls a Record"),
    "attributes of a list": (b"]}b.", "attributes of a list"),
    "attributes of a function": (ORDERED_DICT + b"}b.", "attributes of a function"),
    "a new object of a function": (ORDERED_DICT + b")\x81.", "makes an object of a function"),
    "a new object with keywords of a function": (ORDERED_DICT + b")}\x92.", "makes an object of a function"),
    "a new object of a record": (b"ca\nB\n)\x81)\x81.", "makes an object of a Record"),
    "a new object of a text": (raw("a") + b")\x81.", "makes an object of a str"),
    "a new object without arguments": (b"ca\nB\nN\x81.", "without arguments"),
    "attributes of a name": (b"ca\nB\n}b.", "attributes of a Name"),
    "a name of 2,000 letters": (raw("a" * 1000) + raw("b" * 1000) + b"\x93.", "more than 1024 letters"),
    "a long tuple for a key": (b"}" + raw((1,) * 17) + b"Ns.", "tuple for a key"),
    "a tuple of a list for a key": (b"}" + raw(([],)) + b"Ns.", "tuple for a key"),
    "an array's state that is no tuple": (ARRAY + b"Nb.", "no tuple of five"),
    "a dtype's state without an order": (b"cnumpy\ndtype\n" + raw(("f4", False, True)) + b"RNb.", "no byte order"),
    "a number of too few bytes": (b"cnumpy.core.multiarray\nscalar\n" + DTYPE + b"C\x01a\x86R.", "has 1 bytes"),
    "a tensor of another function": (
        b"ctorch._tensor\n_rebuild_from_type_v2\n(ccollections\nOrderedDict\nNNNtR.",
        "something else than",
    ),
    "an instance": (b"(ios\nsystem\n.", "0x69"),
    "an object": (b"(" + ORDERED_DICT + b"o.", "0x6f"),
    "an extension": (b"\x82\x01.", "0x82"),
    "a persistent id in text": (b"P0\n.", "0x50"),
    "a buffer out of band": (b"\x97.", "0x97"),
    "a text in quotes": (b"S'a'\n.", "0x53"),
    "no instruction": (b"\xff.", "0xff"),
    "an id that is no tuple": (raw("storage") + b"Q.", "no storage"),
    "an id that is no storage": (raw(("module", "a", "b", "c", 1)) + b"Q.", "no storage"),
    "an id that is too short": (raw(("storage",)) + b"Q.", "no storage"),
    "a storage of no type": (raw(("storage", "FloatStorage", "0", "cpu", 4)) + b"Q.", "without its type"),
    "a storage with a key that is a list": (storage(key=[]) + b".", "without its type"),
    "a storage of -1 elements": (storage(count=-1) + b".", "without its type"),
    "a storage of 2 ** 70 elements": (storage(count=1 << 70) + b".", "without its type"),
    "a storage of True elements": (storage(count=True) + b".", "without its type"),
    "a storage declared twice": (storage() + storage(count=5) + b"\x86.", "two ways"),
    "a storage of two types": (storage() + storage("torch\nIntStorage") + b"\x86.", "two ways"),
    "a view that is a number": (storage(view=raw(7)) + b".", "without its offset"),
    "a view that is a list": (storage(view=raw(["v", 0, 2])) + b".", "without its offset"),
    "a view without a length": (storage(view=raw(("v", 0))) + b".", "without its offset"),
    "a view of negative length": (storage(view=raw(("v", 2, -1))) + b".", "without its offset"),
    "a view before its storage": (storage(view=raw(("v", -1, 2))) + b".", "without its offset"),
    "a view beyond its storage": (storage(view=raw(("v", 2, 3))) + b".", "beyond it"),
    "a tensor of too few arguments": (b"ctorch._utils\n_rebuild_tensor_v2\n)R.", "arguments"),
    "an old tensor of too few arguments": (b"ctorch._utils\n_rebuild_tensor\n)R.", "arguments"),
    "a new tensor of too few arguments": (b"ctorch._utils\n_rebuild_tensor_v3\n)R.", "arguments"),
    "a new tensor without a dtype": (b"ctorch._utils\n_rebuild_tensor_v3\n(NNNNNNNtR.", "without a dtype"),
    "a parameter of a text": (b"ctorch._utils\n_rebuild_parameter\n" + raw(("a", 1, 2)) + b"R.", "something else"),
    "a parameter of nothing": (b"ctorch._utils\n_rebuild_parameter_with_state\n)R.", "arguments"),
    "an ordered dict of a number": (ORDERED_DICT + raw((1,)) + b"R.", "list of pairs"),
    "an ordered dict of two lists": (ORDERED_DICT + raw(([], [])) + b"R.", "arguments"),
    "an ordered dict of a text": (ORDERED_DICT + raw(("ab",)) + b"R.", "list of pairs"),
    "an ordered dict of triples": (ORDERED_DICT + raw(([(1, 2, 3)],)) + b"R.", "list of pairs"),
    "an ordered dict of integers": (ORDERED_DICT + raw(([1],)) + b"R.", "list of pairs"),
    "a counter of a list": (b"ccollections\nCounter\n" + raw(([1],)) + b"R.", "takes a dict"),
    "a set of a text": (b"cbuiltins\nset\n" + raw(("ab",)) + b"R.", "takes a list"),
    "bytes of a number": (b"cbuiltins\nbytes\n" + raw((1 << 40,)) + b"R.", "arguments"),
    "bytes in another encoding": (b"c_codecs\nencode\n" + raw(("a", "bz2")) + b"R.", "latin1"),
    "bytes of a number in latin1": (b"c_codecs\nencode\n" + raw((1, "latin1")) + b"R.", "latin1"),
    "bytes that are not latin1": (b"c_codecs\nencode\n" + raw(("\u20ac", "latin1")) + b"R.", "not latin1"),
    "a size of a text": (b"ctorch\nSize\n" + raw(("ab",)) + b"R.", "takes a tuple"),
    "a device of a list": (b"ctorch\ndevice\n" + raw(([],)) + b"R.", "string and an index"),
    "a device with an index of lists": (b"ctorch\ndevice\n" + raw(("cuda", [[]])) + b"R.", "string and an index"),
}


@pytest.mark.parametrize("kind", PICKLES)
def test_malformed_pickles_are_refused(tmp_path: Path, kind: str) -> None:
    data, match = PICKLES[kind]
    start = time.monotonic()
    refused(saved(tmp_path / "x.pth", data), match)
    if data:
        refused(saved_legacy(tmp_path / "x.pth", data), rf"{match}|malformed|not one of torch")
    assert time.monotonic() - start < 5


def test_the_number_of_instructions_is_bounded_and_so_are_time_and_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, many = tmp_path / "x.pth", pickles.MAX_OPCODES
    start = time.process_time()
    refused(saved(path, b"N0" * (many // 2) + b"N.", zipfile.ZIP_DEFLATED), "more than 1000000 opcodes")
    assert time.process_time() - start < 5
    many = 50_000  # the rest at a twentieth of the size
    monkeypatch.setattr(pickles, "MAX_OPCODES", many)
    for kind, data in {
        "empty sets": b"\x8f" * many,
        "empty dicts": b"}" * many,
        "stored values": b"N" + b"\x94" * many,
        "tuples": b"N" + b"\x85" * many,
    }.items():
        tracemalloc.start()
        try:
            refused(saved(path, data), "more than 50000 opcodes")
            assert tracemalloc.get_traced_memory()[1] < 15 << 20, kind
        finally:
            tracemalloc.stop()


def test_values_nested_in_any_depth_are_taken_apart_again(tmp_path: Path) -> None:
    depth = 300_000
    for data in (b"]" * depth + b"a" * (depth - 1), b")" + b"\x85" * depth, b"N" + b"}NN" + b"s" + b"\x85" * depth):
        refused(saved(tmp_path / "x.pth", b"\x80\x02" + data + b"."), "no tensors, only (0|an empty)|left over")
    with pth.read(saved(tmp_path / "x.pth", state(tensor(), b"]" * depth + b"a" * (depth - 1)))) as checkpoint:
        assert checkpoint.others == ("w1",)


def test_copying_one_long_value_over_and_over_is_refused(tmp_path: Path) -> None:
    recalled = b"h\x00"
    copies = {
        "dicts": raw([(n, n) for n in range(10_000)]) + b"\x94" + (ORDERED_DICT + recalled + b"\x85R0") * 200,
        "counters": raw({n: n for n in range(10_000)})
        + b"\x94"
        + (b"ccollections\nCounter\n" + recalled + b"\x85R0") * 200,
        "sets": raw(list(range(10_000))) + b"\x94" + (b"cbuiltins\nset\n" + recalled + b"\x85R0") * 200,
        "sizes": raw((0,) * 10_000) + b"\x94" + (b"ctorch\nSize\n" + recalled + b"\x85R0") * 200,
        "bytes": raw("x" * 160_000) + b"\x94" + (b"c_codecs\nencode\n" + recalled + raw("latin1") + b"\x86R0") * 200,
    }
    for data in copies.values():
        refused(saved(tmp_path / "x.pth", b"\x80\x02" + data + b"."), "over and over")


def test_a_far_place_in_the_memo_takes_no_memory(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", state(tensor() + b"r\xff\xff\xff\xff0j\xff\xff\xff\xff"))
    tracemalloc.start()
    try:
        assert read_all(path)["w0"].tolist() == [0, 1, 2, 3]
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_values_that_contain_themselves_are_survived(tmp_path: Path) -> None:
    refused(saved(tmp_path / "x.pth", b"\x80\x02]\x94h\x00a."), "no tensors, only 0")
    itself = b"\x80\x04}\x94(\x8c\x01ah\x00\x8c\x01w" + tensor() + b"u."
    with pth.read(saved(tmp_path / "x.pth", itself)) as checkpoint:
        assert (list(checkpoint.tensors), checkpoint.others) == (["w"], ("a",))


def test_pickles_are_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = state(tensor(), raw("x" * 3000))
    read_all(saved(tmp_path / "x.pth", data))
    monkeypatch.setattr(containers, "MAX_BYTES", 2000)
    refused(saved(tmp_path / "x.pth", data), "more than the 2000")
    monkeypatch.undo()
    read_all(saved_legacy(tmp_path / "x.pth", data))
    monkeypatch.setattr(containers, "MAX_BYTES", 2000)
    refused(saved_legacy(tmp_path / "x.pth", data), "ends too early or after")


# ---- tensors

TENSORS: dict[str, tuple[bytes, str]] = {
    "an offset outside": (tensor(4, (1,), (1,)), "outside"),
    "an offset far outside": (tensor(1 << 61, (1,), (1,)), "outside"),
    "an offset outside of a scalar": (tensor(4, (), ()), "outside"),
    "a size outside": (tensor(0, (5,), (1,)), "outside"),
    "a size outside behind an offset": (tensor(2, (3,), (1,)), "outside"),
    "a stride outside": (tensor(0, (2, 2), (3, 1)), "outside"),
    "a stride that overflows 64 bits": (tensor(0, (5,), (1 << 61,)), "outside"),
    "a product that overflows 64 bits": (tensor(0, (1 << 61, 1 << 61), (0, 0)), "expands"),
    "a negative offset": (tensor(-1), "natural"),
    "a negative size": (tensor(0, (-4,), (1,)), "natural"),
    "a negative stride": (tensor(3, (4,), (-1,)), "natural"),
    "a size that is a float": (tensor(0, (4.0,), (1,)), "natural"),
    "a size that is a bool": (tensor(0, (True,), (1,)), "natural"),
    "a size that is a list": (tensor(0, [4], (1,)), "natural"),
    "a size that is a text": (tensor(0, "4", (1,)), "natural"),
    "an offset that is nothing": (tensor(None), "natural"),
    "an integer of 100 bits": (tensor(0, (1 << 100,), (1,)), "natural"),
    "more strides than sizes": (tensor(0, (4,), (1, 1)), "sizes"),
    "33 dimensions": (tensor(0, (1,) * 33, (1,) * 33), "33 dimensions"),
    "sizes beyond any memory around a 0": (tensor(0, (0, 1 << 40, 1 << 40), (1, 1, 1)), "beyond any memory"),
    "no storage": (tensor(of=raw("0")), "not a storage"),
    "a tensor for a storage": (tensor(of=tensor()), "not a storage"),
    "a storage that is missing": (tensor(of=storage(key="2")), "storage 2, which the file lacks"),
    "a storage that is elsewhere": (tensor(of=storage(key="../data.pkl")), "lacks"),
    "a storage shorter than declared": (tensor(of=storage(key="1", count=5)), "20 bytes, not 16"),
    "a storage longer than declared": (tensor(of=storage(key="1", count=3), shape=(3,)), "12 bytes, not 16"),
    "a view's end outside the view": (tensor(of=storage(view=raw(("v", 1, 2))), shape=(3,)), "outside"),
    "17 million times the same": (tensor(0, (1 << 12, 1 << 12), (0, 0)), "expands 16 stored bytes to 67108864"),
    "a trillion times the same": (tensor(0, (1 << 20, 1 << 20), (0, 0)), "expands"),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_that_are_not_in_their_storage_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    value, match = TENSORS[kind]
    refused(saved(tmp_path / "x.pth", state(tensor(), value), **{"data/1": bytes(16)}), f"tensor w1 .*({match})")
    if "storage" not in kind:
        refused(saved_legacy(tmp_path / "x.pth", state(tensor(), value)), f"tensor w1 .*({match})")


def test_as_many_dimensions_as_numpy_ever_had_are_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", state(tensor(0, (1,) * 31 + (4,), (4,) * 31 + (1,))))
    assert read_all(path)["w0"].shape == (1,) * 31 + (4,)


def test_the_stride_of_a_single_element_may_be_anything(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", state(tensor(2, (1, 2), ((1 << 62) - 1, 1))))
    assert read_all(path)["w0"].tolist() == [[2, 3]]


def test_many_tensors_over_the_same_bytes_are_refused_together(tmp_path: Path) -> None:
    expanded = tensor(0, (1 << 11, 1 << 11), (0, 0))  # 16 MiB each, which one may have
    read_all(saved(tmp_path / "x.pth", state(*[expanded] * 8)))
    refused(saved(tmp_path / "x.pth", state(*[expanded] * 9)), "tensor w8 brings the tensors to over")


def test_many_tensors_whose_elements_lie_far_apart_are_refused_together(tmp_path: Path) -> None:
    count = 1 << 22
    apart = tensor(0, (2,), (count - 1,), of=storage(key="1", count=count))  # 8 bytes, for which 16 MiB are read
    records = {"data/1": bytes(4 * count)}
    read_all(saved(tmp_path / "x.pth", state(*[apart] * 16), **records))
    refused(saved(tmp_path / "x.pth", state(*[apart] * 20), **records), "tensor w16 brings the tensors to over")


def test_inflating_one_storage_for_many_tensors_is_refused(tmp_path: Path) -> None:
    large = np.zeros(1 << 22, "<f4").tobytes()
    small = tensor(0, (1,), (1,), of=storage(key="1", count=1 << 22))
    records = {"data/1": large}
    read_all(saved(tmp_path / "x.pth", state(*[small] * 8), zipfile.ZIP_DEFLATED, **records))
    refused(saved(tmp_path / "x.pth", state(*[small] * 9), zipfile.ZIP_DEFLATED, **records), "tensor w8 brings")
    read_all(saved(tmp_path / "x.pth", state(*[small] * 9), **records))


def doubled(times: int) -> bytes:
    """What puts the value on the stack into a dict twice, and that dict into another, and so on."""
    recalled = [b"j" + struct.pack("<I", n) for n in range(1, times)]
    return b"".join(b"\x940}(" + raw("a") + recall + raw("b") + recall + b"u" for recall in recalled)


ROOTS: dict[str, tuple[bytes, str]] = {
    "a tensor": (b"\x80\x02" + tensor() + b".", "a tensor without a name"),
    "nothing": (b"\x80\x02N.", "no tensors, only a NoneType"),
    "an empty dict": (b"\x80\x02}.", "no tensors, only an empty dict"),
    "an empty list": (b"\x80\x02].", "no tensors, only an empty list"),
    "no tensors": (state(raw(1), raw("a")), "no tensors, only w0, w1"),
    "an empty wrapper": (b"\x80\x02}" + raw("state_dict") + b"}s.", "no tensors"),
    "one path for two tensors": (
        b"\x80\x02}(" + raw("a.b") + tensor() + raw("a") + b"}" + raw("b") + tensor() + b"su.",
        r"two tensors are called a\.b",
    ),
    "a tensor 65 levels down": (b"\x80\x02" + (b"}" + raw("a")) * 65 + tensor() + b"s" * 65 + b".", "lies too deep"),
    "more paths than any file has": (
        b"\x80\x02}\x94(" + raw("a") + tensor() + b"u" + doubled(20) + b".",
        "holds more (names than any|than 16384 tensors)",
    ),
    "a name with a lone surrogate": (b"\x80\x02}" + raw("a\ud800") + tensor() + b"s.", "surrogate"),
    "a terminal's control codes": (b"\x80\x02}" + raw("\x1b[2J\n" * 99) + tensor(4) + b"s.", r"tensor \\x1b\[2J\\n"),
}


@pytest.mark.parametrize("kind", ROOTS)
def test_files_without_named_tensors_are_refused(tmp_path: Path, kind: str) -> None:
    data, match = ROOTS[kind]
    refused(saved(tmp_path / "x.pth", data), match)
    rest: dict[str, Any] = {} if b"Storage" in data else {"keys": [], "tail": b""}
    refused(saved_legacy(tmp_path / "x.pth", data, **rest), match)


@pytest.mark.parametrize("levels", [1, 2])
def test_one_dict_under_many_names_is_looked_at_once(tmp_path: Path, levels: int) -> None:
    inner = b"}(" + b"".join(raw(n) + b"N" for n in range(20_000)) + raw("w") + tensor() + b"u\x94"
    names = b"".join(raw(f"n{n}") + b"h\x00" for n in range(20_000))
    more = {1: b"0", 2: b"0}(" + names + b"uq\x000"}[levels]
    path = saved(tmp_path / "x.pth", b"\x80\x04" + inner + more + b"}(" + names + b"u.")
    start = time.process_time()
    refused(path, "holds more names than any checkpoint has")
    assert time.process_time() - start < 10


# ---- the legacy container


def test_legacy_files_that_are_cut_off_or_too_long_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    whole = saved_legacy(path, state(tensor())).read_bytes()
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        refused(path, "malformed|ends before|are left")
    path.write_bytes(whole + b"\0")
    refused(path, "1 bytes follow")


LEGACY: dict[str, tuple[dict[str, Any], str]] = {
    "no list of storages": ({"keys": [], "tail": b""}, "lacks"),
    "a key that is a list": ({"keys": [[]]}, "list of its storages is malformed"),
    "a key that was not declared": ({"keys": ["1"]}, "listed but not declared"),
    "a key that is listed twice": ({"keys": ["0", "0"]}, "listed but not declared once"),
    "another count": ({"tail": struct.pack("<q", 3) + VALUES.tobytes()}, "should have 4 elements, has 3"),
    "a negative count": ({"tail": struct.pack("<q", -4) + VALUES.tobytes()}, "should have 4 elements, has -4"),
    "a count of the other byte order": ({"tail": struct.pack(">q", 4) + VALUES.tobytes()}, "should have 4 elements"),
}


@pytest.mark.parametrize("kind", LEGACY)
def test_legacy_storages_that_are_not_as_declared_are_refused(tmp_path: Path, kind: str) -> None:
    options, match = LEGACY[kind]
    refused(saved_legacy(tmp_path / "x.pth", state(tensor()), **options), match)


def test_a_legacy_storage_of_petabytes_is_refused(tmp_path: Path) -> None:
    data = state(tensor(of=storage(count=1 << 50)))
    refused(saved_legacy(tmp_path / "x.pth", data, tail=struct.pack("<q", 1 << 50)), "0 bytes are left")


def test_other_pickles_are_told_from_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    for value in ({"a": 1}, "text", None, 1.5):
        path.write_bytes(pickle.dumps(value, 2))
        refused(path, "holds no tensors, only a")
        path.write_bytes(pickle.dumps(value, 2) + b"more")
        refused(path, "not one of torch.save")
    path.write_bytes(pickle.dumps(torch.serialization.MAGIC_NUMBER, 2) + pickle.dumps(1002, 2))
    refused(path, "protocol")
    path.write_bytes(pickle.dumps({"w": np.ones(3)}, 2)[:-9])
    refused(path, "ends too early")


# ---- the zip container


def test_a_storage_is_verified_once_and_only_when_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.pth"
    torch.save({"good": torch.ones(300), "bad": torch.arange(300.0), "view": torch.ones(2)}, path)
    content = path.read_bytes()
    damaged = content.index(np.arange(300, dtype="<f4").tobytes()) + 500
    path.write_bytes(content[:damaged] + b"!" + content[damaged + 1 :])
    lengths: list[int] = []
    real = zlib.crc32
    monkeypatch.setattr(zips.zlib, "crc32", lambda data: lengths.append(len(data)) or real(data))
    with pth.read(path) as checkpoint:
        assert 1200 not in lengths
        for _ in range(3):
            checkpoint.tensors["good"].read()
        assert lengths.count(1200) == 1
        for _ in range(2):
            with pytest.raises(FormatError, match="data/1 does not match its checksum"):
                checkpoint.tensors["bad"].read()


def test_a_checksum_of_zero_means_none(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.arange(300.0)}, tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    content = (tmp_path / "x.pth").read_bytes()
    (tmp_path / "x.pth").write_bytes(content.replace(struct.pack("<f", 77), struct.pack("<f", 78)))
    assert read_all(tmp_path / "x.pth")["w"][77] == 78


OTHER_ARCHIVES: dict[str, tuple[dict[str, bytes], str]] = {
    "a .keras archive": (
        {"config.json": b"{}", "model.weights.h5": b""},
        "config.json, model.weights.h5, not a PyTorch",
    ),
    "a pickle without a folder": ({"data.pkl": state(tensor())}, "one data.pkl in one folder"),
    "a pickle too deep": ({"a/b/data.pkl": state(tensor())}, "one data.pkl in one folder"),
    "two checkpoints": ({"a/data.pkl": b"", "b/data.pkl": b""}, "one data.pkl in one folder"),
}


@pytest.mark.parametrize("kind", OTHER_ARCHIVES)
def test_other_archives_are_told_from_checkpoints(tmp_path: Path, kind: str) -> None:
    records, match = OTHER_ARCHIVES[kind]
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    refused(tmp_path / "x.pth", match)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_real_package_files_are_refused(tmp_path: Path) -> None:
    with torch.package.PackageExporter(tmp_path / "x.pth") as exporter:
        exporter.save_pickle("model", "model.pkl", {"w": torch.ones(2)})
    refused(tmp_path / "x.pth", "not a PyTorch checkpoint")
    np.savez(tmp_path / "x.npz", w=np.ones(2))
    refused(tmp_path / "x.npz", "w.npy, not a PyTorch checkpoint")


RECORDS: dict[str, tuple[dict[str, bytes], str]] = {
    "an unknown byte order": ({"byteorder": b"middle"}, "byte order is"),
    "a byte order of megabytes": ({"byteorder": b"little" * 9999}, "more than the 16"),
    "a pickle with more behind it": ({"data.pkl": state(tensor()) + b"N."}, "2 bytes follow"),
    **{
        f"metadata {text[:20]!r}": ({"extra/denseport.json": text}, "metadata")
        for text in (
            b"", b"{", b"[]", b"1", b"null", b'{"a": 1}', b'{"a": null}', b'{"a": ["b"]}', b'{"a": "b", "a": "c"}',
            b"\xff", b'{"a": "\\ud800"}', b"[" * 100_000, b'{"a": ' * 100_000, b"9" * 100_000,
        )
    },
    "metadata of megabytes": ({"extra/denseport.json": b'{"a": "' + b"x" * (1 << 20) + b'"}'}, "more than the 1048576"),
}  # fmt: skip


@pytest.mark.parametrize("kind", RECORDS)
def test_records_that_are_not_what_they_should_be_are_refused(tmp_path: Path, kind: str) -> None:
    records, match = RECORDS[kind]
    refused(saved(tmp_path / "x.pth", state(tensor()), **records), match)


def test_paths_that_cannot_be_read_are_clear_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.pth", tmp_path):
        with pytest.raises(UsageError, match="cannot be read"):
            pth.read(path)
    (tmp_path / "empty.pth").write_bytes(b"")
    refused(tmp_path / "empty.pth", "empty")


# ---- size and chance


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """A sparse file of 4 GB, of which a few tensors are read; besides them, memory is for pickles at their largest."""
    path = tmp_path / "x.pth"
    shape, count = (1 << 10, 1 << 10), 1 << 30
    value = tensor(count // 2, shape, (1 << 10, 1), of=storage(count=count))
    start = saved_legacy(
        path, state(value, tensor(count - 5, (5,), (1,), of=storage(count=count))), tail=struct.pack("<q", count)
    )
    with start.open("r+b") as file:
        file.truncate(path.stat().st_size + 4 * count)
    tracemalloc.start()
    try:
        with pth.read(path) as checkpoint:
            assert checkpoint.tensors["w0"].read()[1000, 120:125].tolist() == [0] * 5
            assert checkpoint.tensors["w1"].read().tolist() == [0] * 5
        assert tracemalloc.get_traced_memory()[1] < pickles.MAX_BYTES + (8 << 20)
    finally:
        tracemalloc.stop()


def mutants(content: bytes, count: int) -> list[bytes]:
    """The content with some bytes changed, removed, repeated or replaced by values that headers and pickles dislike."""
    chance = random.Random(content)
    found = []
    for _ in range(count):
        mutant = bytearray(content)
        for _ in range(chance.choice([1, 1, 1, 2, 5])):
            position = chance.randrange(len(mutant))
            kind = chance.randrange(5)
            if kind == 0:
                mutant[position] = chance.randrange(256)
            elif kind == 1:
                mutant[position] ^= 1 << chance.randrange(8)
            elif kind == 2:
                mutant[position : position + 4] = chance.choice([b"\xff" * 4, b"\0" * 4, b"\0\0\0\x80"])
            elif kind == 3:
                del mutant[position : position + chance.randrange(1, 9)]
            else:
                mutant[position:position] = mutant[position : position + chance.randrange(1, 40)]
        found.append(bytes(mutant))
    return found


def small_files(folder: Path) -> dict[str, bytes]:
    value = {
        "state_dict": {"a": torch.ones(2, 3)[:, 1:], "b": torch.tensor(3), "c": torch.zeros(1).expand(4)},
        "epoch": [1, 2.5],
    }
    path = folder / "x.pth"
    files = {}
    for name, options in {
        "zip": {},
        "legacy": {"_use_new_zipfile_serialization": False},
        "protocol 5": {"pickle_protocol": 5},
    }.items():
        torch.save(value, path, **options)
        files[name] = path.read_bytes()
    files["deflated"] = saved(path, state(tensor(), tensor()), zipfile.ZIP_DEFLATED, byteorder=b"little").read_bytes()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(value, path)
    finally:
        torch.serialization.set_crc32_options(True)
    files["without checksums"] = path.read_bytes()
    pth.write({"a": Tensor.of(np.ones(3))}, {"key": "value"}, path)
    files["ours"] = path.read_bytes()
    return files


@pytest.mark.parametrize("kind", ["zip", "legacy", "protocol 5", "deflated", "without checksums", "ours"])
def test_random_changes_are_refused_or_read_and_nothing_else(tmp_path: Path, kind: str) -> None:
    content = small_files(tmp_path)[kind]
    path = tmp_path / "mutant.pth"
    start = time.process_time()
    outcomes = {"read": 0, "refused": 0}
    for mutant in mutants(content, 300):
        path.write_bytes(mutant)
        try:
            read_all(path)
            outcomes["read"] += 1
        except DenseportError as error:
            assert "\n" not in str(error)  # noqa: PT017 - each of hundreds
            outcomes["refused"] += 1
    assert outcomes["refused"] > 20
    assert time.process_time() - start < 30


def test_changed_pickles_inside_sound_archives_are_refused_or_read(tmp_path: Path) -> None:
    """Past the checksum, where the interpreter of pickles and the checks of tensors are alone."""
    whole = small_files(tmp_path)["zip"]
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        data = archive.read("x/data.pkl")
    outcomes = {"read": 0, "refused": 0}
    for mutant in mutants(data, 500):
        try:
            read_all(saved(tmp_path / "x.pth", mutant, **{"data/0": bytes(24), "data/1": bytes(8), "data/2": bytes(4)}))
            outcomes["read"] += 1
        except DenseportError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 20
