"""How each framework runs a request's nets on its images; used inside a process of its own alone.

Each framework has one: their native libraries do not mix (importing TensorFlow and then torchvision ends in a
segmentation fault), both run at once, and each one's memory is its own.
"""

from __future__ import annotations

import gc
import resource
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from denseport import formats, layouts
from denseport.checkpoint import dtype_of
from denseport.errors import DenseportError, UsageError, VerificationError, quoted
from denseport.layouts.frameworks import KERAS
from denseport.net.graph import taps
from denseport.net.weights import Weights
from denseport.running import whole_models
from denseport.running.child import Receive, Reply
from denseport.running.libraries import LIBRARIES
from denseport.running.request import BATCH, TWIN, WHOLE_MODEL, Pass, Request
from denseport.running.training import Trained, canonical_arrays, train_keras, train_torch

TAPPED_IMAGES = 2

Activations = dict[str, np.ndarray]
Predict = Callable[[np.ndarray, bool], tuple[np.ndarray, Activations]]


def serve(next_message: Receive, reply: Reply) -> NoReturn:
    """Answers one request after another: first, for a message of `framework` and `allow_tf32`, what it can use."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # whoever ends this process removes what it has written
    started = time.perf_counter()
    runner = RUNNERS[(first := next_message())["framework"]](first["allow_tf32"])
    gc.freeze()  # a framework is a million objects: to forget a small net would take longer than to run it
    reply({"cuda": runner.backend.has_cuda})
    while True:
        request = Request.from_json(next_message())
        started = started or time.perf_counter()
        try:
            ran = [runner.run(request, each, lambda: reply({"progress": 1})) for each in request.passes]
            if request.train_steps:
                runner.train(request)
            answer = {
                "model": ran[0].model,
                "reason": ran[0].reason,
                "version": runner.version(),
                "device": runner.device_name(request.device),
                "settings": dict(runner.backend.settings),
                "seconds": time.perf_counter() - started,
                "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
        except DenseportError as error:
            answer = {"error": str(error), "kind": type(error).__name__}
        runner.forget()
        reply(answer)
        started = 0.0


@dataclass(frozen=True)
class Backend:
    """What computes beneath a framework, set up for one process.

    Attributes:
        has_cuda: Whether it can use a CUDA device.
        gpu_name: What the maker calls a GPU, by its index.
        settings: What can change the figures, by name.
    """

    has_cuda: bool
    gpu_name: Callable[[int], str]
    settings: Mapping[str, str]


def _torch(allow_tf32: bool) -> Backend:
    import torch

    torch.backends.cuda.matmul.allow_tf32 = allow_tf32
    torch.backends.cudnn.allow_tf32 = allow_tf32
    torch.use_deterministic_algorithms(True, warn_only=True)
    settings = {
        "TF32": _on(torch.backends.cuda.matmul.allow_tf32),
        "deterministic algorithms": _on(torch.are_deterministic_algorithms_enabled()),
        "CUDA": torch.version.cuda or "none",
        "cuDNN": str(torch.backends.cudnn.version() or "none"),  # type: ignore[no-untyped-call]
    }
    return Backend(torch.cuda.is_available(), torch.cuda.get_device_name, settings)


def _tensorflow(allow_tf32: bool) -> Backend:
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(allow_tf32)
    tf.config.experimental.enable_op_determinism()
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)

    def gpu_name(index: int) -> str:
        return str(tf.config.experimental.get_device_details(gpus[index]).get("device_name", gpus[index].name))

    build = tf.sysconfig.get_build_info()
    settings = {
        "TF32": _on(allow_tf32),
        "deterministic algorithms": "on",
        "CUDA": str(build.get("cuda_version", "none")),
        "cuDNN": str(build.get("cudnn_version", "none")),
    }
    return Backend(bool(gpus), gpu_name, settings)


def _jax(allow_tf32: bool) -> Backend:
    import jax

    jax.config.update("jax_default_matmul_precision", None if allow_tf32 else "highest")  # type: ignore[no-untyped-call]
    has_gpu = any(device.platform == "gpu" for device in jax.devices())
    return Backend(has_gpu, lambda index: str(jax.devices("gpu")[index].device_kind), {"TF32": _on(allow_tf32)})


BACKENDS: Mapping[str, Callable[[bool], Backend]] = {"torch": _torch, "tensorflow": _tensorflow, "jax": _jax}


@dataclass(frozen=True)
class Net:
    """What a pass runs.

    Attributes:
        module: A `torch.nn.Module` or a `keras.Model`.
        model: What that is: `twin`, `whole-model`, or a library with its version.
        layers: Those of its layers that have a canonical name.
        reason: Why it is the twin though another was asked for, or "".
    """

    module: Any
    model: str
    layers: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


class Runner(ABC):
    """One framework in one process, deterministic where the `backend` that it computes on can be."""

    backend: Backend

    @abstractmethod
    def version(self) -> str:
        """The framework's name and version."""

    @abstractmethod
    def on(self, device: str) -> AbstractContextManager[Any]:
        """Lets what is made and run meanwhile be on a device."""

    @abstractmethod
    def twin(self, weights: Weights, dtype: str) -> Net:
        """The twin with these weights, which it holds, and computes with, in this dtype."""

    @abstractmethod
    def predictor(self, net: Any, places: Mapping[str, Any], dtype: str, device: str) -> Predict:
        """A function from images (N, *spatial, C), and whether to look inside, to outputs (N, C) and activations.

        Activations are (N, *spatial, C) by the names of `places`, whose values are layers.
        """

    @abstractmethod
    def trained(self, net: Any, steps: int, image_shape: tuple[int, ...], device: str) -> Trained:
        """What some steps of training do to a net."""

    def device_name(self, device: str) -> str:
        """What a report calls the device."""
        return device if device == "cpu" else f"{device} ({self.backend.gpu_name(_index(device))})"

    def net(self, each: Pass, device: str) -> Net:
        """The net of a pass: the twin with the file's weights, or what takes its place.

        Raises:
            UsageError: The framework cannot use the device.
            VerificationError: The library refuses the file.
        """
        if device != "cpu" and not self.backend.has_cuda:
            raise UsageError(
                f"--device {device}: {self.version()} sees no CUDA device; install a build for CUDA, for example "
                "tensorflow[and-cuda], or give --device cpu"
            )
        with self.on(device):
            if library := LIBRARIES.get(each.model):
                return Net(library.load(Path(each.file), each.config, each.dtype, each.shown), library.version())
            with formats.read(Path(each.file), shown=each.shown) as checkpoint:
                weights = layouts.to_canonical(checkpoint, each.found).for_net(each.config)
                reason = each.reason
                if each.model == WHOLE_MODEL:
                    try:
                        held = whole_models.build(checkpoint, Path(each.file), weights, each.dtype, each.rounded)
                        held.require(each.config.traits.head_activation, each.shown)
                        return Net(held.net, WHOLE_MODEL, held.layers)
                    except whole_models.CannotBuildError as error:
                        reason = str(error)
                if each.rounded:
                    weights = weights.cast(dtype_of(each.rounded))
                return replace(self.twin(weights, each.dtype), reason=reason)

    def run(self, request: Request, each: Pass, one_batch_done: Callable[[], None]) -> Net:
        """Writes the outputs of one pass, and what it saw on the way: in the first image of each array, or in two."""
        net = self.net(each, request.device)
        looked_at = taps(each.config) if each.tapped else {}
        layers = {tap: net.layers[layer] for tap, layer in looked_at.items() if layer in net.layers}
        places = {tap: layer for tap, layer in layers.items() if not _activates(layer)}
        predict = self.predictor(net.module, places, each.dtype, request.device)
        if net.model == WHOLE_MODEL:
            predict = of_whole_model(predict, each.shown)
        outputs: dict[str, np.ndarray] = {}
        activations: dict[str, np.ndarray] = {}
        # Noise comes in several arrays, whose first images show what others would; a user's images come in one.
        looked_into = 1 if len(request.images) > 1 else TAPPED_IMAGES
        for n, images in enumerate(request.images):
            batches: list[np.ndarray] = []
            for batch in images.batches(BATCH):
                tapped = each.tapped and not batches
                logits, seen = predict(batch, tapped)
                batches.append(logits)
                if tapped:
                    seen["head"] = logits
                activations |= {f"{tap}/{n}": values[:looked_into].copy() for tap, values in seen.items()}
                one_batch_done()
                if each.first_batch:
                    break
            outputs[str(n)] = np.concatenate(batches)
        np.savez(request.outputs(each.name), **outputs)  # type: ignore[arg-type]
        if each.tapped:
            np.savez(request.taps(each.name), **activations)  # type: ignore[arg-type]
        return replace(net, module=None, layers={})

    def train(self, request: Request) -> None:
        """Writes losses, the first step's gradients and the tensors after the last one, under canonical names."""
        each = request.passes[0]
        # A model's own dropout and augmentation are no two alike.
        each = replace(each, dtype="float64", model=TWIN if each.model == WHOLE_MODEL else each.model)
        net = self.net(each, request.device).module
        trained = self.trained(net, request.train_steps, request.train_shape, request.device)
        layout = "denseport" if each.model == TWIN else each.found.layout.reference
        arrays = {"losses": np.array(trained.losses)}
        for what, native in (("gradient", trained.gradients), ("updated", trained.updated)):
            canonical = canonical_arrays(native, layout, each.config)
            arrays |= {f"{what}/{name}": array for name, array in canonical.items()}
        np.savez(request.trained, **arrays)  # type: ignore[arg-type]

    def forget(self) -> None:
        """Lets go of everything that earlier nets have left behind."""
        gc.collect()


class _TorchRunner(Runner):
    def __init__(self, allow_tf32: bool) -> None:
        import torch

        self.torch, self.backend = torch, _torch(allow_tf32)

    def version(self) -> str:
        return f"torch {self.torch.__version__}"

    def on(self, device: str) -> AbstractContextManager[Any]:  # noqa: ARG002 - a net is made on the CPU and then moved
        return nullcontext()

    def twin(self, weights: Weights, dtype: str) -> Net:
        from denseport.models import pytorch

        twin = pytorch.load(weights.config, {name: t.read() for name, t in weights.tensors.items()}, dtype)
        return Net(twin, TWIN, dict(twin.named_modules()))

    def net(self, each: Pass, device: str) -> Net:
        net = super().net(each, device)
        net.module.to(device)
        return net

    def predictor(self, net: Any, places: Mapping[str, Any], dtype: str, device: str) -> Predict:
        def predict(images: np.ndarray, tapped: bool) -> tuple[np.ndarray, Activations]:
            activations: Activations = {}

            def keep(tap: str, _module: Any, _inputs: Any, output: Any) -> None:
                activations[tap] = np.moveaxis(output.cpu().numpy(), 1, -1)

            looked_at = places.items() if tapped else ()
            hooks = [layer.register_forward_hook(partial(keep, tap)) for tap, layer in looked_at]
            channels_first = np.ascontiguousarray(np.moveaxis(images, -1, 1), dtype)
            with self.torch.inference_mode():
                logits = net(self.torch.from_numpy(channels_first).to(device)).cpu().numpy()
            for hook in hooks:
                hook.remove()
            return logits, activations

        return predict

    def trained(self, net: Any, steps: int, image_shape: tuple[int, ...], device: str) -> Trained:
        return train_torch(net, steps, image_shape, device)


class _KerasRunner(Runner):
    def __init__(self, allow_tf32: bool) -> None:
        import keras

        self.keras, self.backend_name = keras, keras.backend.backend()
        self.backend = BACKENDS[self.backend_name](allow_tf32)

    def version(self) -> str:
        return f"keras {self.keras.__version__} on {self.backend_name} {import_module(self.backend_name).__version__}"

    def on(self, device: str) -> AbstractContextManager[Any]:
        kind = "cpu" if device == "cpu" else "cuda" if self.backend_name == "torch" else "gpu"
        place: AbstractContextManager[Any] = self.keras.device(f"{kind}:{_index(device)}")
        return place

    def twin(self, weights: Weights, dtype: str) -> Net:
        from denseport.models import keras

        tensors = layouts.from_canonical(weights, layouts.find_layout("denseport"), KERAS)
        twin = keras.load(weights.config, {name: tensor.read() for name, tensor in tensors.items()}, dtype)
        return Net(twin, TWIN, {layer.name: layer for layer in twin.layers})

    def predictor(self, net: Any, places: Mapping[str, Any], dtype: str, device: str) -> Predict:
        to_numpy = self.keras.ops.convert_to_numpy

        def predict(images: np.ndarray, tapped: bool) -> tuple[np.ndarray, Activations]:
            activations: Activations = {}

            def keep(tap: str, call: Callable[..., Any], *inputs: Any, **arguments: Any) -> Any:
                output = call(*inputs, **arguments)
                activations[tap] = to_numpy(output)
                return output

            # Layers of models within a model are in no graph of the outer one, of which a second model could be made.
            looked_at = {layer: partial(keep, tap, layer.call) for tap, layer in places.items() if tapped}
            with self.on(device):
                for layer, looking in looked_at.items():
                    layer.call = looking
                logits = to_numpy(net(images.astype(dtype, copy=False), training=False))
                for layer in looked_at:
                    del layer.call
            return logits, activations

        return predict

    def trained(self, net: Any, steps: int, image_shape: tuple[int, ...], device: str) -> Trained:
        with self.on(device):
            return train_keras(net, steps, image_shape)

    def forget(self) -> None:
        self.keras.backend.clear_session()
        super().forget()


RUNNERS: Mapping[str, Callable[[bool], Runner]] = {"torch": _TorchRunner, "keras": _KerasRunner}


def of_whole_model(predict: Predict, shown: str) -> Predict:
    """The same of the model in a file: of one that gives its last map, its mean; an error of Keras' in one line."""

    def named(images: np.ndarray, tapped: bool) -> tuple[np.ndarray, Activations]:
        try:
            outputs, seen = predict(images, tapped)
        except Exception as error:  # TensorFlow has classes of its own for what it cannot compute
            told = quoted(f"{type(error).__name__}: {' '.join(str(error).split())}", 200)
            raise VerificationError(
                f"{shown}: Keras does not run the model in the file ({told}); save its weights alone"
            ) from None
        # Where there is no classifier, denseport's nets give pooled features.
        return outputs.mean(axis=tuple(range(1, outputs.ndim - 1))) if outputs.ndim > 2 else outputs, seen

    return named


def _index(device: str) -> int:
    return int(device.partition(":")[2] or 0)


def _on(setting: bool) -> str:
    return "on" if setting else "off"


def _activates(layer: Any) -> bool:
    """Whether a layer of Keras with weights has an activation within it, which a net of denseport's has behind it."""
    activation = getattr(layer, "activation", None) if getattr(layer, "weights", None) else None
    return getattr(activation, "__name__", "linear") != "linear"
