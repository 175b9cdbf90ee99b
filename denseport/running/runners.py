"""How each framework loads a file and runs images through it; used inside a worker process alone."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from denseport.errors import UsageError
from denseport.net.config import DenseNetConfig, Traits
from denseport.net.graph import taps
from denseport.running.libraries import LIBRARIES
from denseport.running.request import Pass, Training
from denseport.running.training import Trained, train_keras, train_torch

Activations = dict[str, np.ndarray]
Predict = Callable[[np.ndarray, bool], tuple[np.ndarray, Activations]]


class Runner(Protocol):
    """One framework in one process."""

    def has_cuda(self) -> bool:
        """Whether the framework can use a CUDA device."""

    def version(self) -> str:
        """The framework's name and version."""

    def settings(self) -> dict[str, str]:
        """What can change the figures, by name."""

    def device_name(self, device: str) -> str:
        """What a report calls the device."""

    def load(self, each: Pass, device: str) -> Predict:
        """A function from images (N, *spatial, C), and whether to look inside, to outputs (N, C) and activations.

        Activations are (N, *spatial, C) by `graph.taps`; a library's own model gives none.

        Raises:
            UsageError: The framework cannot use the device.
            VerificationError: The library refuses the file.
        """

    def train(self, each: Pass, device: str, training: Training) -> Trained:
        """What some steps of training do to the net of a pass; errors as for `load`."""

    def forget(self) -> None:
        """Lets go of everything that earlier nets have left behind."""


class TorchRunner:
    """PyTorch, with deterministic algorithms where it has them."""

    def __init__(self, allow_tf32: bool) -> None:
        import torch

        torch.backends.cuda.matmul.allow_tf32 = allow_tf32
        torch.backends.cudnn.allow_tf32 = allow_tf32
        torch.use_deterministic_algorithms(True, warn_only=True)
        self.torch = torch

    def has_cuda(self) -> bool:
        """Whether the framework can use a CUDA device."""
        return bool(self.torch.cuda.is_available())

    def version(self) -> str:
        """The framework's name and version."""
        return f"torch {self.torch.__version__}"

    def settings(self) -> dict[str, str]:
        """What can change the figures, by name."""
        cudnn = self.torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        return {
            "TF32": _on(self.torch.backends.cuda.matmul.allow_tf32),
            "deterministic algorithms": _on(self.torch.are_deterministic_algorithms_enabled()),
            "CUDA": self.torch.version.cuda or "none",
            "cuDNN": str(cudnn or "none"),
        }

    def device_name(self, device: str) -> str:
        """What a report calls the device."""
        return "cpu" if device == "cpu" else f"{device} ({self.torch.cuda.get_device_name(device)})"

    def load(self, each: Pass, device: str) -> Predict:
        """A function from images to outputs and activations; see `Runner.load`."""
        model = self._model(each, device)
        places = {} if each.library else {layer: tap for tap, layer in taps(model.config).items()}
        activations: Activations = {}

        def keep(tap: str) -> Callable[..., None]:
            def hook(_module: Any, _inputs: Any, output: Any) -> None:
                activations[tap] = np.moveaxis(output.cpu().numpy(), 1, -1)

            return hook

        def predict(images: np.ndarray, tapped: bool) -> tuple[np.ndarray, Activations]:
            activations.clear()
            hooks = [
                model.get_submodule(layer).register_forward_hook(keep(tap)) for layer, tap in places.items() if tapped
            ]
            with self.torch.inference_mode():
                logits: np.ndarray = model(self._tensor(images, each.dtype, device)).cpu().numpy()
            for hook in hooks:
                hook.remove()
            return logits, dict(activations)

        return predict

    def train(self, each: Pass, device: str, training: Training) -> Trained:
        """What some steps of training do to the net of a pass; see `Runner.train`."""
        return train_torch(self._model(each, device), training, device)

    def forget(self) -> None:
        """Lets go of everything that earlier nets have left behind."""
        gc.collect()

    def _model(self, each: Pass, device: str) -> Any:
        if device != "cpu" and not self.has_cuda():
            raise UsageError(
                f"--device {device}: this torch sees no CUDA device; install a CUDA build, or --device cpu"
            )
        if each.library:
            return LIBRARIES[each.library].load(Path(each.file), configuration(each), each.dtype).to(device)
        from denseport.load import load_torch

        return load_torch(each.file, **_options(each)).to(device)

    def _tensor(self, images: np.ndarray, dtype: str, device: str) -> Any:
        channels_first = np.ascontiguousarray(np.moveaxis(images, -1, 1), dtype)
        return self.torch.from_numpy(channels_first).to(device)


class KerasRunner:
    """Keras on its configured backend, with deterministic algorithms where that has them."""

    def __init__(self, allow_tf32: bool) -> None:
        import keras

        self.keras = keras
        self.backend = keras.backend.backend()
        self.allow_tf32 = allow_tf32
        if self.backend == "tensorflow":
            import tensorflow as tf

            tf.config.experimental.enable_tensor_float_32_execution(allow_tf32)
            tf.config.experimental.enable_op_determinism()
            for gpu in tf.config.list_physical_devices("GPU"):
                tf.config.experimental.set_memory_growth(gpu, True)
        elif self.backend == "torch":
            self.torch = TorchRunner(allow_tf32)
        else:
            import jax

            jax.config.update("jax_default_matmul_precision", None if allow_tf32 else "highest")  # type: ignore[no-untyped-call]

    def has_cuda(self) -> bool:
        """Whether the framework can use a CUDA device."""
        if self.backend == "tensorflow":
            import tensorflow as tf

            return bool(tf.config.list_physical_devices("GPU"))
        if self.backend == "torch":
            return self.torch.has_cuda()
        import jax

        return any(device.platform == "gpu" for device in jax.devices())

    def version(self) -> str:
        """The framework's name and version."""
        return f"keras {self.keras.__version__} on {self.backend} {import_module(self.backend).__version__}"

    def settings(self) -> dict[str, str]:
        """What can change the figures, by name."""
        if self.backend == "torch":
            return self.torch.settings()
        shared = {"TF32": _on(self.allow_tf32)}
        if self.backend == "jax":
            return shared
        import tensorflow as tf

        build = tf.sysconfig.get_build_info()
        return shared | {
            "deterministic algorithms": "on",
            "CUDA": str(build.get("cuda_version", "none")),
            "cuDNN": str(build.get("cudnn_version", "none")),
        }

    def device_name(self, device: str) -> str:
        """What a report calls the device."""
        if device == "cpu":
            return device
        if self.backend == "torch":
            return self.torch.device_name(device)
        index = int(device.partition(":")[2] or 0)
        if self.backend == "jax":
            import jax

            return f"{device} ({jax.devices('gpu')[index].device_kind})"
        import tensorflow as tf

        gpu = tf.config.list_physical_devices("GPU")[index]
        return f"{device} ({tf.config.experimental.get_device_details(gpu).get('device_name', gpu.name)})"

    def load(self, each: Pass, device: str) -> Predict:
        """A function from images to outputs and activations; see `Runner.load`."""
        model = self._model(each, device)
        places = {} if each.library else taps(configuration(each))
        looking = model
        if places and each.tapped:
            inside = [model.get_layer(layer).output for layer in places.values()]
            looking = self.keras.Model(model.inputs, [*inside, model.output])

        def predict(images: np.ndarray, tapped: bool) -> tuple[np.ndarray, Activations]:
            images = images.astype(each.dtype, copy=False)
            with self.keras.device(self._place(device)):
                if not (tapped and places):
                    return self._array(model(images, training=False)), {}
                *inside, logits = looking(images, training=False)
            return self._array(logits), dict(zip(places, map(self._array, inside), strict=True))

        return predict

    def train(self, each: Pass, device: str, training: Training) -> Trained:
        """What some steps of training do to the net of a pass; see `Runner.train`."""
        model = self._model(each, device)
        with self.keras.device(self._place(device)):
            return train_keras(model, training)

    def forget(self) -> None:
        """Lets go of everything that earlier nets have left behind."""
        self.keras.backend.clear_session()
        gc.collect()

    def _model(self, each: Pass, device: str) -> Any:
        if device != "cpu" and not self.has_cuda():
            raise UsageError(
                f"--device {device}: Keras on {self.backend} sees no GPU; install one that does, for example "
                "tensorflow[and-cuda], or give --device cpu"
            )
        with self.keras.device(self._place(device)):
            if each.library:
                return LIBRARIES[each.library].load(Path(each.file), configuration(each), each.dtype)
            from denseport.load import load_keras

            return load_keras(each.file, **_options(each))

    def _place(self, device: str) -> str:
        name, _, index = device.partition(":")
        gpu = "cuda" if self.backend == "torch" else "gpu"
        return f"{gpu if name == 'cuda' else name}:{index or 0}"

    def _array(self, tensor: Any) -> np.ndarray:
        array: np.ndarray = self.keras.ops.convert_to_numpy(tensor)
        return array


RUNNERS: Mapping[str, Callable[[bool], Runner]] = {"torch": TorchRunner, "keras": KerasRunner}


def _options(each: Pass) -> dict[str, Any]:
    """How `load_torch` and `load_keras` load what a pass runs."""
    return {
        "layout": each.layout,
        "head": each.head,
        "traits": Traits(**each.traits) if each.traits else None,
        "dtype": each.dtype,
        "rounded": each.rounded,
    }


def configuration(each: Pass) -> DenseNetConfig:
    """The architecture of the net that a pass runs, under the traits that it runs with."""
    from denseport.load import opened

    with opened(Path(each.file), each.layout, head=each.head) as (_, found):
        config = found.config.without_head() if each.head == "drop" else found.config
    return config.replace(traits=Traits(**each.traits)) if each.traits else config


def _on(setting: bool) -> str:
    return "on" if setting else "off"
