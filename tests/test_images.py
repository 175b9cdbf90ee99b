"""What a parity check runs on: noise, arrays and pictures, in bounded memory, or refused in one line."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from densenets import CIFAR, SMALL
from PIL import Image

from denseport.errors import FrameworkMissingError, UsageError
from denseport.net.config import DenseNetConfig, Inputs
from denseport.preprocessing import PREPROCESSING, Preprocessing, preprocess
from denseport.running import npz, pictures
from denseport.running.images import ImageSet, given, noise, training_shape

NET = DenseNetConfig.bc(4, (1, 1), 8, num_classes=3)
SMALL_NET = DenseNetConfig.bc(4, (1, 1), 8, num_classes=3, **CIFAR)
GREY_NET = NET.replace(in_channels=1)
RANDOM = np.random.default_rng(0)


def all_of(images: ImageSet, size: int = 100) -> np.ndarray:
    """Every image, as the process that was sent them reads them."""
    sent = ImageSet.from_json(json.loads(json.dumps(images.to_json())))
    batches = list(sent.batches(size))
    assert all(batch.dtype == np.float32 and batch.flags.c_contiguous for batch in batches)
    assert all(0 < len(batch) <= size for batch in batches)
    assert len(batches) == images.batch_count(size)
    whole = np.concatenate(batches)
    assert whole.shape == images.shape == sent.shape
    return whole


def refused(path: Path, config: DenseNetConfig = NET, *arguments: Any) -> str:
    """The one line with which the images are refused, before or while they are read."""
    with pytest.raises(UsageError) as caught:
        for images in given(path, config, *arguments):
            all_of(images)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(str(path)), message
    return message


# Noise


def test_noise_is_even_odd_and_of_unequal_sides() -> None:
    assert [images.name for images in noise(NET)] == ["224x224", "225x225", "168x197"]
    assert [images.shape for images in noise(SMALL_NET)] == [(2, 32, 32, 3), (2, 33, 33, 3), (1, 24, 29, 3)]
    assert [images.name for images in noise(SMALL["3-D"][0])] == ["64x64x64", "65x65x65", "48x57x48"]
    assert [images.name for images in noise(SMALL["1-D"][0])] == ["224", "225"]
    assert {images.name for images in noise(SMALL["flattened head"][0])} == {"96x96", "97x97"}
    assert [images.shape for images in noise(NET.replace(head_shape=(3, 4)))] == [(2, 24, 32, 3), (2, 25, 33, 3)]
    assert [images.shape[0] for images in noise(NET)] == [2, 2, 1]


def takes(config: DenseNetConfig, size: tuple[int, ...]) -> bool:
    """Whether the twin for PyTorch does; on a device that computes shapes alone."""
    import torch

    from denseport.models.pytorch import DenseNet

    with torch.device("meta"):
        twin = DenseNet(config).eval()
        try:
            twin(torch.zeros(1, config.in_channels, *size))
        except RuntimeError:
            return False
    return True


@pytest.mark.parametrize("net", SMALL)
def test_noise_and_training_images_fit_every_kind_of_net(net: str) -> None:
    config = SMALL[net][0]
    shapes = [images.shape for images in noise(config)] + [(1, *training_shape(config))]
    assert len(shapes) >= 3
    assert all(takes(config, shape[1:-1]) for shape in shapes)


@pytest.mark.parametrize("blocks", [1, 2, 4, 7])
@pytest.mark.parametrize("head_shape", [(), (2, 3)])
@pytest.mark.parametrize("stem", [{}, CIFAR, {"stem_kernel": 4}, {"stem_kernel": 4, "padding": "same"}])
def test_sizes_are_refused_just_where_a_net_cannot_take_them(
    tmp_path: Path, blocks: int, head_shape: tuple[int, ...], stem: dict[str, Any]
) -> None:
    config = DenseNetConfig.bc(2, (1,) * blocks, 4, num_classes=3, head_shape=head_shape, **stem)
    for size in noise(config)[0].shape[1:3], (31, 33), (64, 64), (4, 4), (1, 1), (65, 97), (8, 12):
        np.savez(tmp_path / "x.npz", images=zeros(1, *size, 3))
        if takes(config, size):
            given(tmp_path / "x.npz", config)
        else:
            assert "do not fit; the net takes" in refused(tmp_path / "x.npz", config)


def test_noise_is_standard_normal_where_the_stem_sees_it() -> None:
    inputs = Inputs(4, (2, 1, 0), (1 / 255, 0.5, 2.0), (-1.0, 0.0, 3.0))
    for images in noise(SMALL_NET.replace(inputs=inputs)):
        assert images.shape[-1] == 4
        raw = all_of(ImageSet.from_json(images.to_json()))
        seen = raw[..., inputs.order] * np.float32(inputs.scale) + np.float32(inputs.offset)
        assert abs(seen.mean((0, 1, 2))).max() < 0.1
        assert abs(seen.std((0, 1, 2)) - 1).max() < 0.1


def test_noise_is_the_same_in_every_process_and_batch() -> None:
    for images in noise(NET):
        whole = all_of(images)
        assert np.array_equal(whole, all_of(images, 1))
        assert abs(whole.std() - 1) < 0.02
    first, second = (all_of(images) for images in noise(NET)[:2])
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[:, 0, 0], second[:, 0, 0])


def test_large_images_come_in_smaller_batches() -> None:
    images = ImageSet("x", (6, 2048, 2048, 1))
    assert [len(batch) for batch in images.batches(32)] == [4, 2]
    assert images.batch_count(32) == 2


@pytest.mark.parametrize("change", [{"block_config": (1,) * 20_000}, {"in_channels": 10_000}])
def test_a_net_for_which_no_noise_can_be_made_is_refused(change: dict[str, Any]) -> None:
    config = DenseNetConfig.bc(1, change.get("block_config", (1,)), 4, in_channels=change.get("in_channels", 3))
    with pytest.raises(UsageError, match="too large for noise; give --inputs, or --no-verify"):
        noise(config)


# Arrays


@pytest.mark.parametrize("dtype", ["uint8", "int64", "uint16", "float16", "float32", "float64", ">f4", ">i2"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_converted_and_not_scaled(tmp_path: Path, dtype: str, save: Callable[..., None]) -> None:
    images = RANDOM.integers(0, 256, (7, 40, 36, 3)).astype(dtype)
    save(tmp_path / "x.npz", images=images, labels=[0, 1, 2, 0, 1, 2, 0])
    (found,) = given(tmp_path / "x.npz", NET)
    assert (found.name, found.names[:2], len(found.names)) == ("x.npz", ("images[0]", "images[1]"), 7)
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    for size in (1, 3, 100):
        assert np.array_equal(all_of(found, size), images.astype(np.float32))


def test_arrays_are_preprocessed_where_the_user_says_so(tmp_path: Path) -> None:
    images = RANDOM.integers(0, 256, (2, 40, 40, 3), np.uint8)
    np.savez(tmp_path / "x.npz", images=images)
    (found,) = given(tmp_path / "x.npz", NET, "caffe", "torch")
    assert np.array_equal(all_of(found), preprocess(images, PREPROCESSING["caffe"]))
    (found,) = given(tmp_path / "x.npz", NET, None, "torch")
    assert np.array_equal(all_of(found), images)
    with pytest.raises(UsageError, match="known: torch"):
        given(tmp_path / "x.npz", NET, "imagenet")
    with pytest.raises(UsageError, match="does not fit 5"):
        given(tmp_path / "x.npz", NET.replace(in_channels=5), "torch")


@pytest.mark.parametrize(("net", "shape"), [("1-D", (3, 50, 3)), ("3-D", (3, 18, 17, 20, 3))])
def test_arrays_of_other_dimensions_fit_nets_of_these(tmp_path: Path, net: str, shape: tuple[int, ...]) -> None:
    images = RANDOM.standard_normal(shape, np.float32)
    np.savez(tmp_path / "x.npz", images=images)
    (found,) = given(tmp_path / "x.npz", SMALL[net][0])
    assert np.array_equal(all_of(found, 2), images)


def zeros(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": zeros(1, 32, 32, 3)}, r"no array `images` \(it holds pictures.npy\); save it with numpy.savez"),
        ({"images": zeros(32, 32, 3)}, r"images of shape \(32, 32, 3\) do not fit; .*\(N, height, width, 3\)"),
        ({"images": zeros(1, 32, 32, 4)}, "do not fit"),
        ({"images": zeros(0, 32, 32, 3)}, "do not fit"),
        ({"images": zeros(1, 0, 32, 3)}, "do not fit"),
        ({"images": zeros()}, "do not fit"),
        ({"images": np.array([["a"]])}, "do not fit"),
        ({"images": zeros(1, 4, 32, 3)}, "images of 4x32 do not fit; the net takes sides of 8 or more"),
        ({"images": np.full((1, 32, 32, 3), "a")}, "of dtype <U1 are no numbers; save them"),
        ({"images": zeros(1, 32, 32, 3, dtype=bool)}, "of dtype bool are no numbers"),
        ({"images": zeros(1, 32, 32, 3, dtype=complex)}, "are no numbers"),
        ({"images": zeros(1, 32, 32, 3, dtype=[("a", "f4")])}, "are no numbers"),
        ({"images": zeros(1, 32, 32, 3, dtype=object)}, "no array `images`.*pickled"),
        ({"images": np.asfortranarray(zeros(2, 32, 32, 3))}, "Fortran order; save numpy.ascontiguousarray"),
        ({"images": np.full((2, 32, 32, 3), np.nan)}, r"images\[0\] holds NaN or Inf"),
        ({"images": np.float64([[[[1] * 3] * 8] * 8] * 5 + [[[[1e300] * 3] * 8] * 8])}, r"images\[5\] holds NaN or"),
        ({"images": zeros(2, 32, 32, 3), "labels": zeros(3, dtype=int)}, r"labels of shape \(3,\) do not fit 2 images"),
        ({"images": zeros(2, 32, 32, 3), "labels": zeros(2, 1, dtype=int)}, "do not fit 2 images"),
        ({"images": zeros(2, 32, 32, 3), "labels": zeros(2)}, "labels of dtype float32 are no integers"),
        ({"images": zeros(2, 32, 32, 3), "labels": zeros(2, dtype=object)}, "no array `labels`.*pickled"),
        ({"images": zeros(2, 32, 32, 3), "labels": np.array([1, 3])}, "labels from 1 to 3 .* 3 classes, .* from 0"),
        ({"images": zeros(2, 32, 32, 3), "labels": np.array([-1, 0])}, "labels from -1 to 0"),
        ({"images": zeros(2, 32, 32, 3), "labels": np.array([0, 2**64 - 1], np.uint64)}, "labels from 0 to 18446744"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    assert re.search(message, refused(tmp_path / "x.npz"))


def npy(shape: object, descr: object = "<f4", version: tuple[int, int] = (1, 0), data: bytes = b"") -> bytes:
    return headed(f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}}}", version, data)


def headed(text: str, version: tuple[int, int] = (1, 0), data: bytes = b"") -> bytes:
    header = text.encode()
    length = struct.pack("<H" if version == (1, 0) else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + length + header + data


BROKEN_NPY = {
    "10^12 values": npy((10**6, 1000, 1000, 3)),
    "a size that overflows": npy((2**40, 2**40, 2**40, 3)),
    "negative sides": npy((-1, -8, 8, 3), data=b"\0" * 768),
    "a side of thousands of digits": npy(f"(0, {'9' * 4000}, 8, 3)"),
    "a side of too many digits": npy(f"({'9' * 5000}, 8, 8, 3)"),
    "too few bytes": npy((1, 8, 8, 3), data=b"\0" * 767),
    "too many bytes": npy((1, 8, 8, 3), data=b"\0" * 769),
    "a shape of floats": npy("(1., 8, 8, 3)"),
    "a shape that is called": npy("exit()"),
    "a header of minus signs": headed("-" * 9000 + "1"),
    "a header with a list as a key": headed("{[]: 1}"),
    "a header whose lines do not align": headed("  1L\n 2L"),
    "a header nested deeply": npy("(" * 4000 + ")" * 4000),
    "a header that only Python 2 reads": npy("(1L, 8L, 8L, 4L)", data=b"\0" * 1024),
    "a header that no Python reads": npy("(1L, '"),
    "a dtype that is none": npy((1, 8, 8, 3), "f99"),
    "an empty dtype": npy((1, 8, 8, 3), ()),
    "a dtype of objects": npy((1, 8, 8, 3), "|O", data=b"\0" * 1536),
    "a dtype of no bytes": npy((1, 8, 8, 3), "|V0"),
    "npy version 3": npy((1, 8, 8, 3), version=(3, 0), data=b"\0" * 768),
    "npy version 2 with a long header": b"\x93NUMPY\2\0" + struct.pack("<I", 2**32 - 1) + b"{" + b" " * 10**6,
    "no header": b"\x93NUMPY",
    "nothing": b"",
    "a pickle": b"\x80\x04\x95.",
}


@pytest.fixture
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("broken", BROKEN_NPY)
def test_broken_arrays_are_refused_in_little_memory(tmp_path: Path, broken: str, compression: int) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w", compression) as archive:
        archive.writestr("images.npy", BROKEN_NPY[broken])
    message = refused(tmp_path / "x.npz")
    assert "no array `images`" in message or "do not fit" in message or "are no numbers" in message
    assert len(message) < 500


def packed(save: Callable[..., None], **arrays: np.ndarray) -> bytearray:
    buffer = io.BytesIO()
    save(buffer, **arrays)
    return bytearray(buffer.getvalue())


def test_broken_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    images = RANDOM.standard_normal((5, 8, 8, 3), np.float32)
    whole = packed(np.savez, images=images)
    encrypted = whole.copy()
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        encrypted[encrypted.find(signature) + offset] |= 1
    changed = whole.copy()
    changed[len(whole) // 2] ^= 1
    deflated = packed(np.savez_compressed, images=images)
    deflated[len(deflated) // 2 : len(deflated) // 2 + 9] = b"\xff" * 9
    short = packed(np.savez_compressed, images=zeros(5, 8, 8, 3))
    short[short.find(b"PK\1\2") + 20] -= 5
    entry = npy((5, 8, 8, 3), data=b"\0" * 4 * 768)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", entry)
    early = bytearray(path.read_bytes())
    struct.pack_into("<I", early, early.find(b"PK\1\2") + 24, len(entry) + 768)
    broken = (
        early,
        whole[:-1],
        whole[:300],
        whole[:0],
        b"PK\3\4",
        b"no archive at all",
        encrypted,
        changed,
        deflated,
        short,
    )
    for content in broken:
        path.write_bytes(content)
        assert "no array `images`" in refused(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("images.npy", npy((1, 8, 8, 3), data=b"\0" * 768))
    assert "compressed in an uncommon way" in refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", npy((1, 8, 8, 3), data=b"\0" * 768))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("images.npy", npy((1, 8, 8, 3), data=b"\0" * 768))
    assert "no array `images`" in refused(path)
    np.save(tmp_path / "x.npy", zeros(1, 8, 8, 3))
    assert "no array `images`" in refused(tmp_path / "x.npy")


def test_an_array_that_promises_far_more_than_it_stores_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "x.npz", images=zeros(100, 100, 100, 3, dtype=np.uint8))
    assert len(all_of(given(tmp_path / "x.npz", NET)[0], 10)) == 100
    monkeypatch.setattr(npz, "FREE_INFLATION", 1 << 20)
    assert "bytes claim to hold 3000" in refused(tmp_path / "x.npz")
    lying = bytearray((tmp_path / "x.npz").read_bytes())
    struct.pack_into("<I", lying, lying.find(b"PK\1\2") + 20, 2**31)
    (tmp_path / "x.npz").write_bytes(lying)
    assert "bytes claim to hold 3000" in refused(tmp_path / "x.npz")


def test_too_many_and_too_large_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "x.npz", images=zeros(3, 8, 8, 3))
    for limit, value in (("MAX_IMAGES", 2), ("MAX_IMAGE_VALUES", 191)):
        with monkeypatch.context() as patch:
            patch.setattr(npz, limit, value)
            assert "too many, or too large; give a part of them" in refused(tmp_path / "x.npz")


def test_a_file_that_changes_between_check_and_run_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=zeros(3, 8, 8, 3))
    (images,) = given(tmp_path / "x.npz", NET)
    np.savez(tmp_path / "x.npz", images=zeros(3, 9, 8, 3))
    with pytest.raises(UsageError, match=r"x.npz: .*its shape was \(3, 8, 8, 3\) a moment ago and is \(3, 9, 8, 3\)"):
        all_of(images)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_memory_does_not_grow_with_the_number_of_arrays(tmp_path: Path, save: Callable[..., None]) -> None:
    save(tmp_path / "x.npz", images=RANDOM.integers(0, 256, (400, 64, 64, 3), np.uint8))
    (images,) = given(tmp_path / "x.npz", NET, "torch")
    assert peak_of(lambda: sum(len(batch) for batch in images.batches(8))) < 6 << 20


def peak_of(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# Pictures


def picture(file: Path, mode: str = "RGB", size: tuple[int, int] = (40, 30), **options: Any) -> Path:
    pixels = RANDOM.integers(0, 256, (size[1], size[0], 3), np.uint8)
    file.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(file, **options)
    return file


def test_a_folder_of_pictures_is_one_set_of_images(tmp_path: Path) -> None:
    files = [picture(tmp_path / f"{n}{suffix}") for n, suffix in enumerate(pictures.SUFFIXES)]
    picture(tmp_path / "upper.JPG")
    for ignored in ("notes.txt", ".hidden.png", "._0.png"):
        (tmp_path / ignored).write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    (images,) = given(tmp_path, NET, None, "torch")
    assert images.shape == (len(files) + 1, 224, 224, 3)
    assert images.name == tmp_path.name
    assert images.names == (*(file.name for file in files), "upper.JPG")
    assert images.labels is None
    whole = all_of(images, 3)
    for n, file in enumerate(files):
        (single,) = given(file, NET, "torch")
        assert (single.name, single.names) == (file.name, (file.name,))
        assert np.array_equal(all_of(single)[0], whole[n])


def test_a_relative_folder_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    assert given(Path(), NET)[0].name == tmp_path.name


def test_the_size_is_what_the_net_takes(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    assert given(path, NET)[0].shape == (1, 224, 224, 3)
    assert given(path, SMALL_NET)[0].shape == (1, 32, 32, 3)
    assert given(path, SMALL["flattened head"][0])[0].shape == (1, 96, 96, 3)
    assert given(path, NET, Preprocessing(crop=50))[0].shape == (1, 50, 50, 3)
    assert "images of 50x50 do not fit; the net takes 96x96" in refused(
        path, SMALL["flattened head"][0], Preprocessing(crop=50)
    )
    assert "pictures are made square" in refused(path, NET.replace(head_shape=(3, 4)))


def test_only_nets_for_pictures_take_pictures(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    for config in (SMALL["1-D"][0], SMALL["3-D"][0], NET.replace(in_channels=2), NET.replace(in_channels=4)):
        assert "give a npz file" in refused(path, config)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_kind_of_pixel_becomes_colour_or_grey(tmp_path: Path, mode: str) -> None:
    path = picture(tmp_path / "a.png", mode, (224, 224))
    with Image.open(path) as image:
        for config, wanted in ((NET, image.convert("RGB")), (GREY_NET, image.convert("L"))):
            pixels = all_of(given(path, config)[0])
            assert np.array_equal(pixels[0], np.asarray(wanted).reshape(pixels.shape[1:]))


def test_a_palette_with_transparency_and_print_colours_are_read(tmp_path: Path) -> None:
    palette = Image.new("P", (224, 224))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((5, 0), 1)
    palette.save(tmp_path / "a.png", transparency=b"\0\x80")
    pixels = all_of(given(tmp_path / "a.png", NET)[0])[0]
    assert (pixels[0, 0].tolist(), pixels[0, 5].tolist()) == ([10, 20, 30], [40, 50, 60])
    Image.new("CMYK", (224, 224), (255, 0, 0, 0)).save(tmp_path / "b.jpg", quality=100)
    assert np.abs(all_of(given(tmp_path / "b.jpg", NET)[0])[0, 9, 9] - [0, 255, 255]).max() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_camera_was_held(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((300, 200, 3), np.uint8)
    upright[:150, :100], upright[150:, 100:] = 100, 200
    turns: dict[int, list[Image.Transpose]] = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = Image.fromarray(upright)
    for turn in turns[orientation]:
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    pixels = all_of(given(tmp_path / "a.png", NET)[0])[0, ..., 0]
    corners = [pixels[y, x] for y in (5, -5) for x in (5, -5)]
    assert corners == [100, 0, 0, 200]


def test_folders_are_classes_where_there_are_as_many(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/1.png", "a/3.png"):
        picture(tmp_path / name)
    assert given(tmp_path, NET)[0].labels is None
    (tmp_path / ".cache").mkdir()
    (tmp_path / "c").mkdir()
    (images,) = given(tmp_path, NET)
    assert images.names == ("a/3.png", "b/1.png", "b/2.png")
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1, 1]
    assert np.array_equal(all_of(images)[2], all_of(given(tmp_path / "b" / "2.png", NET)[0])[0])
    assert given(tmp_path, NET.without_head())[0].labels is None
    picture(tmp_path / "0.png")
    (images,) = given(tmp_path, NET)
    assert images.names[0] == "0.png"
    assert images.labels is None


def png(width: int, height: int, mode: int = 2) -> bytes:
    """The header of a PNG file, and no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, mode, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 100)
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


HOPELESS = {
    "100 megapixels": (png(10_000, 10_000), "has more than 50331648 pixels; resize it"),
    "81 megapixels": (png(9_000, 9_000), "has 9000x9000 pixels, more than 50331648; resize it"),
    "2^62 pixels": (png(2**31 - 1, 2**31 - 1), "has more than"),
    "one line": (png(40_000_000, 1), "is 40000000x1 pixels, too long for its width; crop it"),
    "one column": (png(1, 40_000_000), "is 1x40000000 pixels, too long for its width"),
    "no pixels": (png(0, 10), "is no picture of a known format"),
    "nothing": (b"", "is no picture of a known format"),
    "words": (b"no picture at all, but words", "is no picture"),
    "a program in PostScript": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "is no picture of a known format",
    ),
    "another format": (b"GIF89a\1\0\1\0" + bytes(100), "is no picture of a known format"),
    "a header cut off": (png(10, 10)[:20], "cannot be read|is no picture"),
}


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("hopeless", HOPELESS)
def test_what_is_no_picture_or_too_large_is_refused_before_it_is_read(tmp_path: Path, hopeless: str) -> None:
    content, message = HOPELESS[hopeless]
    picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(content)
    with pytest.raises(UsageError, match=f"b.png: ({message})") as caught:
        given(tmp_path, NET)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("suffix", pictures.SUFFIXES)
def test_a_picture_that_is_cut_off_is_named_when_it_is_read(tmp_path: Path, suffix: str) -> None:
    path = picture(tmp_path / f"a{suffix}", size=(200, 200))
    content = path.read_bytes()
    for length in (len(content) // 2, len(content) * 9 // 10):
        path.write_bytes(content[:length])
        assert "a picture" in refused(path)


def test_pictures_of_wider_channels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((20, 20), np.uint16)).save(tmp_path / "a.png")
    assert "has pixels of kind I;16, not of 8 bits a channel; save it with 8" in refused(tmp_path / "a.png")
    Image.fromarray(np.zeros((20, 20), np.float32)).save(tmp_path / "a.tif")
    assert "has pixels of kind F" in refused(tmp_path / "a.tif")


def test_paths_without_pictures_are_refused(tmp_path: Path) -> None:
    assert "holds no picture (.png, .jpg" in refused(tmp_path)
    assert "there is no such file or folder" in refused(tmp_path / "none.png")
    assert "there is no such file or folder" in refused(tmp_path / "none.npz")
    assert "cannot be read (File name too long)" in refused(tmp_path / ("x" * 5000))
    os.mkfifo(tmp_path / "pipe.png")
    assert "there is no such file or folder" in refused(tmp_path / "pipe.png")
    assert "holds no picture" in refused(tmp_path), "a pipe within a folder would be waited for"


def test_too_many_pictures_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(3):
        picture(tmp_path / f"{n}.png")
    monkeypatch.setattr(pictures, "MAX_IMAGES", 2)
    assert "holds 3 pictures, more than 2; give a part of them" in refused(tmp_path)


def test_pictures_are_decoded_batch_by_batch(tmp_path: Path) -> None:
    for n in range(60):
        picture(tmp_path / f"{n:02}.png", size=(32, 32))
    (images,) = given(tmp_path, NET)
    batch = 2 * 224 * 224 * 3 * 8
    assert peak_of(lambda: sum(len(batch) for batch in images.batches(2))) < 4 * batch


def test_missing_pillow_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = picture(tmp_path / "a.png")
    monkeypatch.setattr(pictures, "find_spec", lambda _: None)
    with pytest.raises(FrameworkMissingError, match=r"need Pillow: pip install 'denseport\[parity\]'"):
        given(path, NET)


def test_pillow_is_imported_for_pictures_alone(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=zeros(1, 32, 32, 3))
    code = (
        "import sys\nfrom pathlib import Path\nfrom denseport.net.config import DenseNetConfig\n"
        "from denseport.running.images import given, noise\nnoise(DenseNetConfig())\n"
        f"list(given(Path({str(tmp_path / 'x.npz')!r}), DenseNetConfig(), 'torch')[0].batches(1))\n"
        "assert 'PIL' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
