"""The same steps of training in either framework; used inside a worker process alone.

Plain SGD on one batch in float64, normalisations in training mode. Momentum is 0.1 in PyTorch's words and 0.9 in
Keras'. PyTorch keeps the unbiased variance of a batch, Keras the biased one: the Keras twin's normalisation corrects
that (`denseport.models.keras.layers`), so that the twins agree, while a library's model shows what it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from denseport import layouts
from denseport.checkpoint import Checkpoint, Tensor
from denseport.metadata import Record
from denseport.net.config import DenseNetConfig

LEARNING_RATE = 0.01
BATCH = 4
IMAGES, TARGETS = 20180602, 20180603  # seeds


@dataclass(frozen=True)
class Trained:
    """What training did, by the framework's tensor names and axes.

    Attributes:
        losses: The loss before each step.
        gradients: Of the first step; zeros for running statistics.
        updated: Every tensor after the last step.
    """

    losses: list[float]
    gradients: dict[str, np.ndarray]
    updated: dict[str, np.ndarray]

    def __post_init__(self) -> None:
        # Tensors that have no gradient get one of zeros, so that a layout finds a whole net in either.
        for name, array in self.updated.items():
            self.gradients.setdefault(name, np.zeros_like(array))


def noise(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Fixed-seed normal values, the same in every process."""
    return np.random.default_rng(seed).standard_normal(shape)


def train_torch(model: Any, steps: int, image_shape: tuple[int, ...], device: str) -> Trained:
    """Trains a torch module on the mean squared error of its outputs, which any head can be trained with."""
    import torch

    parameters = dict(model.named_parameters())
    images = torch.from_numpy(noise((BATCH, *image_shape), IMAGES)).to(device).movedim(-1, 1).contiguous()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    model.train()
    losses, gradients = [], {}
    for step in range(steps):
        optimizer.zero_grad()
        outputs = model(images)
        loss = torch.nn.functional.mse_loss(outputs, torch.from_numpy(noise(tuple(outputs.shape), TARGETS)).to(device))
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.item())
        if step == 0:
            gradients = {name: parameter.grad.cpu().numpy().copy() for name, parameter in parameters.items()}
        optimizer.step()
    updated = {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}
    return Trained(losses, gradients, updated)


def train_keras(model: Any, steps: int, image_shape: tuple[int, ...]) -> Trained:
    """Trains a Keras model on TensorFlow like `train_torch` does a torch module."""
    import tensorflow as tf

    images = tf.constant(noise((BATCH, *image_shape), IMAGES))
    names = {id(variable): f"{layer.name}/{variable.name}" for layer in _layers(model) for variable in layer.variables}
    losses, gradients = [], {}
    for step in range(steps):
        with tf.GradientTape() as tape:
            outputs = model(images, training=True)
            loss = tf.reduce_mean(tf.square(outputs - noise(tuple(outputs.shape), TARGETS)))
        losses.append(float(loss))
        values = [variable.value for variable in model.trainable_variables]
        slopes = tape.gradient(loss, values)
        if step == 0:
            named = zip(model.trainable_variables, slopes, strict=True)
            gradients = {names[id(variable)]: slope.numpy() for variable, slope in named}
        for value, slope in zip(values, slopes, strict=True):
            value.assign_sub(LEARNING_RATE * slope)
    updated = {names[id(variable)]: variable.numpy() for variable in model.variables if id(variable) in names}
    return Trained(losses, gradients, updated)


def _layers(model: Any) -> list[Any]:
    """The layers of a model that hold variables, those of models within it too."""
    inner = [_layers(layer) if hasattr(layer, "layers") else [layer] for layer in model.layers]
    return [layer for each in inner for layer in each]


def canonical_arrays(arrays: Mapping[str, np.ndarray], layout: str, config: DenseNetConfig) -> dict[str, np.ndarray]:
    """Arrays under a layout's names as canonical ones, with channels in the order of dense layers that append.

    Args:
        arrays: Every tensor of a net by its name in the layout.
        layout: The layout.
        config: The net, of which the layout does not say everything.
    """
    metadata = Record(layout, **config.unshown).strings()
    checkpoint = Checkpoint({name: Tensor.of(array) for name, array in arrays.items()}, metadata)
    weights = layouts.to_canonical(checkpoint, layouts.detect(checkpoint, layout)).concatenated("old-first")
    return {name: tensor.read() for name, tensor in weights.tensors.items()}
