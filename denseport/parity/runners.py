"""How each framework loads a file and runs images through it; used inside a worker process alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from denseport.errors import UsageError

Predict = Callable[[np.ndarray], np.ndarray]


class Runner(Protocol):
    """One framework in one process."""

    def has_cuda(self) -> bool:
        """Whether the framework can use a CUDA device."""

    def version(self) -> str:
        """The framework's name and version."""

    def device_name(self, device: str) -> str:
        """What a report calls the device."""

    def predictor(self, file: Path, device: str, options: Mapping[str, Any]) -> Predict:
        """A function from images (N, *spatial, C) to outputs (N, num_classes), by the twin with a file's weights."""


class TorchRunner:
    """PyTorch, without TF32."""

    def __init__(self) -> None:
        import torch

        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.use_deterministic_algorithms(True, warn_only=True)
        self.torch = torch

    def has_cuda(self) -> bool:
        """Whether the framework can use a CUDA device."""
        return bool(self.torch.cuda.is_available())

    def version(self) -> str:
        """The framework's name and version."""
        return f"torch {self.torch.__version__}"

    def device_name(self, device: str) -> str:
        """What a report calls the device."""
        return "cpu" if device == "cpu" else f"{device} ({self.torch.cuda.get_device_name(device)})"

    def predictor(self, file: Path, device: str, options: Mapping[str, Any]) -> Predict:
        """A function from images (N, *spatial, C) to outputs (N, num_classes), by the twin with a file\'s weights."""
        from denseport.loading import load_torch

        if device != "cpu" and not self.has_cuda():
            raise UsageError(
                f"--device {device}: this torch sees no CUDA device; install a CUDA build, or --device cpu"
            )
        twin = load_torch(file, **options).to(device)

        def predict(images: np.ndarray) -> np.ndarray:
            channels_first = np.ascontiguousarray(np.moveaxis(images, -1, 1))
            with self.torch.inference_mode():
                logits: np.ndarray = twin(self.torch.from_numpy(channels_first).to(device)).cpu().numpy()
            return logits

        return predict


class KerasRunner:
    """Keras on its configured backend, without TF32."""

    def __init__(self) -> None:
        import keras

        self.keras = keras
        self.backend = keras.backend.backend()
        if self.backend == "tensorflow":
            import tensorflow as tf

            tf.config.experimental.enable_tensor_float_32_execution(False)
            for gpu in tf.config.list_physical_devices("GPU"):
                tf.config.experimental.set_memory_growth(gpu, True)

    def has_cuda(self) -> bool:
        """Whether the framework can use a CUDA device."""
        if self.backend == "tensorflow":
            import tensorflow as tf

            return bool(tf.config.list_physical_devices("GPU"))
        if self.backend == "torch":
            import torch

            return bool(torch.cuda.is_available())
        import jax  # type: ignore[import-not-found, unused-ignore]

        return any(device.platform == "gpu" for device in jax.devices())

    def version(self) -> str:
        """The framework's name and version."""
        from importlib.metadata import version

        return f"keras {self.keras.__version__} on {self.backend} {version(self.backend)}"

    def device_name(self, device: str) -> str:
        """What a report calls the device."""
        return device

    def predictor(self, file: Path, device: str, options: Mapping[str, Any]) -> Predict:
        """A function from images (N, *spatial, C) to outputs (N, num_classes), by the twin with a file\'s weights."""
        from denseport.loading import load_keras

        if device != "cpu" and not self.has_cuda():
            raise UsageError(
                f"--device {device}: Keras on {self.backend} sees no GPU; install one that does, for example "
                "tensorflow[and-cuda], or give --device cpu"
            )
        place = "cpu:0" if device == "cpu" else device.replace("cuda", "gpu" if self.backend != "torch" else "cuda")
        with self.keras.device(place if ":" in place else f"{place}:0"):
            twin = load_keras(file, **options)

        def predict(images: np.ndarray) -> np.ndarray:
            with self.keras.device(place if ":" in place else f"{place}:0"):
                logits: np.ndarray = self.keras.ops.convert_to_numpy(twin(images, training=False))
            return logits

        return predict


RUNNERS: Mapping[str, Callable[[], Runner]] = {"torch": TorchRunner, "keras": KerasRunner}
