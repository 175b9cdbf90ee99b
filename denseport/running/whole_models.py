"""The whole Keras model that a file holds, as Keras itself builds it: what runs a side in the place of the twin.

A twin computes what denseport reads from a file. Where the file says how its model computes, that model shows what the
reading has missed, before the stem, behind the features and in every trait, which two twins would share.

Only a configuration that `descriptions.keras` has read as data and accepted, and that names nothing but Keras' own
classes, is ever built, with Keras' safe mode on. The process that builds it looks at the names once more: the file may
have changed meanwhile.
"""

from __future__ import annotations

import copy
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from denseport import layouts
from denseport.checkpoint import Checkpoint, dtype_of
from denseport.errors import VerificationError, quoted
from denseport.layouts import Weights
from denseport.layouts.frameworks import KERAS
from denseport.running.images import ImageSet, shown_size
from denseport.running.libraries import keras_computing_in
from denseport.running.request import TWIN, WHOLE_MODEL

if TYPE_CHECKING:
    import keras

# What a configuration may name. Keras looks functions up by these modules too, of which only activations are harmless.
MODULES = "layers|models|engine|ops|initializers|regularizers|constraints|dtype_policies|mixed_precision"
CLASSES = re.compile(rf"(tf_)?keras(\.src)?(\.({MODULES})(\..*)?)?")
FUNCTIONS = re.compile(r"builtins|(tf_)?keras(\.src)?\.activations(\..*)?")
# What stands beside weights without being a model that Keras could build.
OTHERS = {
    "torch": "the module in the file is code, which is never run",
    "timm": "the folder names a net of timm's, which --against timm runs",
    "keras-hub": "the folder names a net of keras_hub's, which --against keras-hub runs",
}
SUFFIXES = {"keras": ".keras", "h5": ".h5"}
# Activations of outputs that saturate: far from 0, outputs that differ by much are equal behind them.
OF_OUTPUTS = {"softmax": "softmax", "sigmoid": "sigmoid", "log_softmax": "log-softmax"}
OPERATIONS = {"Softmax": "softmax", "Sigmoid": "sigmoid", "LogSoftmax": "log-softmax"}


class CannotBuildError(Exception):
    """Keras does not build the model, or does not load its weights; the message says why."""


@dataclass(frozen=True)
class WholeModel:
    """A model as Keras has built it, ending before a softmax or sigmoid.

    Attributes:
        net: The model.
        layers: Those of its layers that hold weights of the DenseNet, by canonical name.
        head_activation: What was taken off its end, as `Traits.head_activation` has it.
    """

    net: keras.Model
    layers: Mapping[str, Any]
    head_activation: str

    def require(self, head_activation: str, shown: str) -> None:
        """Raises VerificationError where what was taken off is not what denseport reads there, and will write."""
        if self.head_activation != head_activation:
            raise VerificationError(
                f"{shown}: its model ends in {self.head_activation}, where denseport reads {head_activation}; state it "
                f"with --trait head_activation={self.head_activation}"
            )


def why_not(checkpoint: Checkpoint) -> str:
    """Why there is no model in a file that Keras could build, or ""."""
    if checkpoint.described_by != "keras" or checkpoint.format not in SUFFIXES:
        return OTHERS.get(checkpoint.described_by, "the file holds weights alone")
    for stated in _objects(checkpoint.description):
        kind = stated.get("class_name")
        if isinstance(kind, str) and not _is_keras(kind, stated):
            named = quoted(f"{stated.get('module') or ''}.{kind}".lstrip("."))
            return f"the model in the file holds {named}, which is not Keras' own"
        if kind == "Permute" or stated.get("data_format") == "channels_first":
            return "the model in the file takes images whose channels come first"
    return ""


def choice(checkpoint: Checkpoint, framework: str, images: Sequence[ImageSet] = ()) -> tuple[str, str]:
    """What runs a file on images in a framework, as `Pass.model` has it; and why it is the twin, or ""."""
    reason, size = why_not(checkpoint), image_size(checkpoint.description)
    if not reason and framework != "keras":
        reason = "only Keras runs the model in the file"
    if not reason and not all(each.is_of(size) for each in images):
        reason = f"the model in the file takes images of {shown_size(size)} alone"
    return (TWIN, reason) if reason else (WHOLE_MODEL, "")


def _objects(config: object) -> Iterator[Mapping[str, Any]]:
    """Every object within a configuration."""
    pending = [config]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending += value
        elif isinstance(value, dict):
            pending += value.values()
            yield value


def _is_keras(kind: str, stated: Mapping[str, Any]) -> bool:
    if kind.startswith("__"):  # tensors and numbers; a lambda is none
        return kind in ("__keras_tensor__", "__tensor__", "__numpy__", "__ellipsis__", "__tuple__", "__slice__")
    registered = str(stated.get("registered_name") or kind)
    if ">" in kind or ">" in registered or "Lambda" in (kind, registered):
        return False
    module = str(stated.get("module") or "keras")
    return bool((FUNCTIONS if kind == "function" else CLASSES).fullmatch(module))


def image_size(description: Mapping[str, Any]) -> tuple[int | None, ...]:
    """The spatial sizes that a model's configuration states of its images, None where one is free; () for none."""
    stated: object = description
    while isinstance(stated, dict):
        config = stated.get("config")
        layers = config.get("layers") if isinstance(config, dict) else config
        if not isinstance(layers, list):
            shape = config.get("batch_shape", config.get("batch_input_shape")) if isinstance(config, dict) else None
            sides = shape[1:-1] if isinstance(shape, list) else []
            return tuple(side if type(side) is int and side > 0 else None for side in sides)
        inputs = [each for each in layers if isinstance(each, dict) and each.get("class_name") == "InputLayer"]
        stated = (inputs or layers or [None])[0]
    return ()


def build(checkpoint: Checkpoint, file: Path, weights: Weights, dtype: str, rounded: str | None = None) -> WholeModel:
    """The model in a file with the file's weights, as Keras loads them; used inside Keras' process alone.

    Args:
        checkpoint: What is in the file, of which `why_not` says nothing.
        file: Where it is.
        weights: The same weights by canonical name, as the file has them.
        dtype: `float32` or `float64`, in which the model holds its weights and computes, whatever its layers state.
        rounded: The dtype to round the DenseNet's weights to first, or None.

    Raises:
        CannotBuildError: Keras refuses the configuration or the weights.
        UsageError: The dtype is float64 and Keras runs on another backend than TensorFlow.
    """
    if reason := why_not(checkpoint):
        raise CannotBuildError(reason)
    if weights.config.dimensions == 3 and dtype == "float64":
        raise CannotBuildError("TensorFlow pools no maps of 3 dimensions in float64")
    try:
        with keras_computing_in(dtype):
            model = _built(_for_keras_3(checkpoint.description, dtype), legacy=checkpoint.format == "h5")
        _load_weights(model, file, checkpoint.format)
    except Exception as error:  # Keras has no class for what it does not take
        import keras

        told = quoted(f"{type(error).__name__}: {' '.join(str(error).split())}", 120)
        raise CannotBuildError(f"keras {keras.__version__} does not build the model in the file ({told})") from None
    found = _canonical_layers(model, weights)
    if rounded:
        for layer in found.values():
            for variable in layer.weights:
                variable.assign(np.asarray(variable).astype(dtype_of(rounded)).astype(dtype))
    return WholeModel(model, found, _without_activation(model))


def _for_keras_3(config: Any, dtype: str) -> Any:
    """A copy of a configuration that computes in a dtype, and says nothing of training.

    What Keras 2 has of it otherwise is put as Keras 3 takes it: no layer's name has a slash, what there is one of is in
    no list, and no module is `engine`.
    """
    if isinstance(config, list):
        return [_for_keras_3(each, dtype) for each in config]
    if isinstance(config, str):
        return config.replace("/", "_")
    if not isinstance(config, dict):
        return copy.copy(config)
    changed = {key: _for_keras_3(value, dtype) for key, value in config.items() if key != "compile_config"}
    if changed.get("dtype") is not None:
        changed["dtype"] = dtype
    if ".engine." in str(changed.get("module")):
        changed["module"] = "keras.src.models.functional" if changed.get("class_name") == "Functional" else "keras"
    for key in ("axis", "input_layers", "output_layers"):
        if isinstance(stated := changed.get(key), list) and len(stated) == 1:
            changed[key] = stated[0]
    return changed


def _built(config: dict[str, Any], *, legacy: bool) -> keras.Model:
    """The model of a configuration, with weights as layers start with.

    Source: keras/src/legacy/saving/legacy_h5_format.py, `load_model_from_hdf5`; saving_lib.py, `_model_from_config`.
    """
    import keras

    if not legacy:
        return keras.saving.deserialize_keras_object(config, safe_mode=True)
    from keras.src.legacy.saving import saving_options, saving_utils
    from keras.src.saving.serialization_lib import SafeModeScope

    with saving_options.keras_option_scope(use_legacy_config=True), SafeModeScope(True):
        return saving_utils.model_from_config(config)


def _load_weights(model: keras.Model, file: Path, kind: str) -> None:
    """Lets Keras load the weights, which goes by the file's suffix, whatever the file is called."""
    with tempfile.TemporaryDirectory(prefix="denseport-model-") as folder:
        link = Path(folder) / f"model{SUFFIXES[kind]}"
        link.symlink_to(file.resolve())
        model.load_weights(link)


def _canonical_layers(model: keras.Model, weights: Weights) -> dict[str, Any]:
    """The layers of a model that hold the DenseNet's weights, by canonical name.

    Values tell them, since names need not: models within models may share them, and some files record none. Of layers
    with equal values the first in the model is the first in the net.
    """
    named = layouts.from_canonical(weights, layouts.find_layout("denseport"), KERAS)
    wanted: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in named.items():
        layer, _, variable = name.rpartition("/")
        wanted.setdefault(layer, {})[variable] = tensor.read()
    holding: dict[tuple[tuple[int, ...], ...], list[Any]] = {}
    for layer in model._flatten_layers(include_self=False, recursive=True):
        if layer.weights and not getattr(layer, "layers", None):
            holding.setdefault(_shapes({each.name: each for each in layer.weights}), []).append(layer)
    found = {}
    for name, arrays in wanted.items():
        candidates = holding.get(_shapes(arrays), [])
        for place, layer in enumerate(candidates):
            if all(_holds(variable, arrays.get(variable.name)) for variable in layer.weights):
                found[name] = candidates.pop(place)
                break
    return found


def _shapes(arrays: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(sorted((name, tuple(array.shape)) for name, array in arrays.items()))


def _holds(variable: Any, array: np.ndarray | None) -> bool:
    values = np.asarray(variable)
    return array is not None and np.array_equal(values, array.astype(values.dtype), equal_nan=True)


def _without_activation(model: keras.Model) -> str:
    """Takes a softmax, sigmoid or log-softmax off a model's end, and says which, or `none`.

    Logits are compared, since far from 0 these activations give the same for outputs that differ by much.
    """
    from keras import activations

    last = model
    while getattr(last, "layers", None):
        last = last.outputs[0]._keras_history.operation
    if (name := OPERATIONS.get(type(last).__name__)) is not None:
        last.call = _unchanged
        return name
    activation = getattr(last, "activation", None)
    name = OF_OUTPUTS.get(getattr(activation, "__name__", ""), "none")
    if name != "none":
        last.activation = activations.linear
    return name


def _unchanged(inputs: Any, *_: Any, **__: Any) -> Any:
    return inputs
