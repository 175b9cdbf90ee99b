"""Files and folders that hold models in formats that are not read: what they are, and the way to one that is."""

from __future__ import annotations

from pathlib import Path

from denseport.formats.source_file import SourceFile

TF_CHECKPOINT = (
    "a TensorFlow checkpoint, which names variables and no layers; build the model by its own code, load it there with "
    "model.load_weights, and save it with model.save('new.keras')"
)
SAVED_MODEL = (
    "a TensorFlow SavedModel, which is a program; load it with tf_keras.models.load_model(folder) and save it with "
    "model.save('new.h5')"
)
ONNX = (
    "an ONNX graph; give the checkpoint that it was exported from, or, where its normalisations are not folded into "
    "its convolutions, torch.save(onnx2torch.convert(path).state_dict(), 'new.pth')"
)
MSGPACK = (
    "msgpack, as Flax saves; read it with flax.serialization.msgpack_restore, and save its arrays by name with "
    "safetensors.numpy.save_file"
)
LITE = "a TensorFlow Lite model, whose layers are fused; give the model that it was made from"
NUMPY = "a NumPy file; save its arrays by the names of their layers with safetensors.numpy.save_file"
GGUF = "a GGUF file, which no DenseNet's library writes; give the checkpoint that it was made from"

# The footer of the table in a TensorFlow checkpoint's index.
TABLE_MAGIC = bytes.fromhex("57fb808b247547db")
FIRST_BYTES = {b"\x93NUMPY": NUMPY, b"GGUF": GGUF}
PARTS_OF_CHECKPOINTS = (".index", ".data-00000-of-00001", ".meta")
SUFFIXES = {".onnx": ONNX, ".msgpack": MSGPACK, ".tflite": LITE, **dict.fromkeys(PARTS_OF_CHECKPOINTS, TF_CHECKPOINT)}


def kind_of_file(file: SourceFile, path: Path) -> str:
    """What a file of no known format is, and what to do, or "" where that cannot be told."""
    start, end = file.read(0, 16), file.read(file.size - len(TABLE_MAGIC), len(TABLE_MAGIC))
    if end == TABLE_MAGIC:
        return TF_CHECKPOINT
    if start[4:8] == b"TFL3":
        return LITE
    if path.name == "saved_model.pb":
        return SAVED_MODEL
    by_start = next((kind for magic, kind in FIRST_BYTES.items() if start.startswith(magic)), "")
    return by_start or next((kind for suffix, kind in SUFFIXES.items() if path.name.endswith(suffix)), "")


def kind_of_folder(path: Path) -> str:
    """The same of a folder."""
    if (path / "saved_model.pb").is_file():
        return SAVED_MODEL
    return TF_CHECKPOINT if (path / "checkpoint").is_file() and any(path.glob("*.index")) else ""
