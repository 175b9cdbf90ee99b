"""Parity reports made by hand: DenseNet-121 carried over rightly, and with a transpose left out in block1.layer3."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from denseport.net.config import DenseNetConfig
from denseport.net.graph import shapes, taps
from denseport.parity.report import (
    Comparison,
    Correspondence,
    Disagreement,
    Divergence,
    FeedingTensor,
    FrameworkRun,
    Histogram,
    Illustrations,
    ParityReport,
    Prediction,
    Tap,
    TrainedTensor,
    TrainingReport,
)

CONFIG = DenseNetConfig()
TAPS = [*taps(CONFIG), "head"]
BROKEN = "block1.layer3"


def run(file: str, framework: str, **fields: Any) -> FrameworkRun:
    settings = {"TF32": "off", "deterministic algorithms": "on", "CUDA": "none", "cuDNN": "none"}
    known = {
        "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0bd822cd15d6c15b0f00a08"[:64],
        "layout": "torchvision" if framework == "torch" else "keras-applications",
        "traits": vars(CONFIG.traits),
        "origins": dict.fromkeys(vars(CONFIG.traits), "assumed"),
        "model": "twin",
        "reason": "the file holds weights alone",
        "version": "torch 2.14.1+cu130" if framework == "torch" else "keras 3.15.1 on tensorflow 2.21.0",
        "device": "cpu",
        "settings": settings if framework == "torch" else settings | {"oneDNN": "off"},
        "seconds": 8.31 if framework == "torch" else 10.94,
        "peak_memory": 911_000_000 if framework == "torch" else 1_530_000_000,
    }
    return FrameworkRun(file=file, framework=framework, **{**known, **fields})


def good() -> ParityReport:
    random = np.random.default_rng(1)
    found = []
    for n, name in enumerate(TAPS):
        level = 8e-8 * (1 + 4 * n / len(TAPS))
        errors = level * random.uniform(0.75, 1.25, 3)
        found.append(Tap(name, float(errors[0] * 1.2), (float(errors[1]), float(errors[2] * 1.1))))
    edges = tuple(np.linspace(-3.2, 3.4, 41).tolist())
    counts = tuple(np.histogram(random.normal(0, 0.7, 20_000), edges)[0].tolist())
    plots = tuple(Histogram(f"{name}, activations", edges, counts, counts) for name in (TAPS[-3], TAPS[-2], TAPS[-1]))
    classes = ((281, 0.4188), (282, 0.2713), (285, 0.2051), (287, 0.0313), (292, 0.0099))
    mapping = tuple(
        Correspondence(name, f"features.{name}", shape, f"{name.replace('.', '_')}/kernel:0", shape[::-1])
        for name, shape in shapes(CONFIG).items()
    )
    return ParityReport(
        a=run("/data/models/densenet121.pth", "torch"),
        b=run("/data/models/densenet121.h5", "keras"),
        comparisons=(
            Comparison("224x224", (2, 224, 224, 3), 4.1e-7, 2.4e-6, 1.0, None, (3.9e-7, 4.3e-7)),
            Comparison("225x225", (2, 225, 225, 3), 3.8e-7, 2.2e-6, 1.0, None, (3.6e-7, 4.0e-7)),
            Comparison("192x256", (2, 192, 256, 3), 4.4e-7, 2.6e-6, 1.0, None, (4.1e-7, 3.7e-7)),
        ),
        taps=tuple(found),
        divergence=None,
        disagreements=(),
        training=None,
        dtype="float32",
        tolerance=1e-5,
        seconds=11.42,
        illustrations=Illustrations(
            plots, tuple(Prediction(f"cat-{n}.jpg", classes, classes) for n in (1, 2)), mapping
        ),
    )


def broken() -> ParityReport:
    right, random = good(), np.random.default_rng(2)
    at = TAPS.index(BROKEN)
    found = [
        tap
        if n < at
        else dataclasses.replace(tap, relative_error=error, reference_errors=(tap.reference_errors[0], error))
        for n, tap in enumerate(right.taps)
        if tap.reference_errors
        for error in [float(0.42 * random.uniform(0.6, 1.0) * (0.4 + 0.6 * n / len(TAPS)))]
    ]
    names = ("norm1.weight", "norm1.bias", "norm1.running_mean", "norm1.running_var", "conv1.weight")
    torch, keras = "features.denseblock1.denselayer3", "conv2_block3"
    parameters = ("0_bn/gamma:0", "0_bn/beta:0", "0_bn/moving_mean:0", "0_bn/moving_variance:0", "1_conv/kernel:0")
    feeding = tuple(
        FeedingTensor(f"{BROKEN}.{name}", f"{torch}.{name}", f"{keras}_{keras}_{own}", largest, finding)
        for name, own, largest, finding in zip(
            names,
            parameters,
            (0.0, 0.0, 0.0, 0.0, 0.83),
            ("equal",) * 4 + ("holds the same values with its two last axes swapped: a transpose was left out",),
            strict=True,
        )
    )
    edges = tuple(np.linspace(-2, 6, 41).tolist())
    values = random.gamma(1.2, 0.8, 20_000), random.normal(1.1, 1.2, 20_000)
    a, b = (tuple(np.histogram(each, edges)[0].tolist()) for each in values)
    explanation = (
        f"the outputs part at {BROKEN}: 1.1e-01, where 1.2e-07 is noise; {BROKEN}.conv1.weight holds the same values "
        "with its two last axes swapped"
    )
    first = ((281, 0.4188), (282, 0.2713), (285, 0.2051), (287, 0.0313), (292, 0.0099))
    second = ((904, 0.1902), (281, 0.1513), (794, 0.0951), (611, 0.0413), (556, 0.0299))
    trained = tuple(TrainedTensor(f"{BROKEN}.{name}", 0.31 / (n + 1), 0.02 / (n + 1)) for n, name in enumerate(names))
    return dataclasses.replace(
        right,
        comparisons=tuple(
            dataclasses.replace(
                each, relative_error=0.314, absolute_error=1.93, top1_agreement=0.5, accuracy=(1.0, 0.5)
            )
            for each in right.comparisons[:2]
        ),
        taps=tuple(found),
        divergence=Divergence(BROKEN, found[at].relative_error, 1.2e-7, feeding, explanation),
        disagreements=tuple(Disagreement(f"photographs/cat-{n:03}.jpg", 281, 904, 281) for n in range(63)),
        training=TrainingReport(3, 0.01, ((6.91, 7.25), (6.42, 7.11), (6.01, 6.98)), trained, 1e-9),
        illustrations=dataclasses.replace(
            right.illustrations,
            histograms=tuple(Histogram(f"{name}, activations", edges, a, b) for name in (BROKEN, TAPS[-2], TAPS[-1])),
            predictions=(Prediction("cat-001.jpg", first, second), Prediction("cat-002.jpg", first, first)),
        ),
    )
