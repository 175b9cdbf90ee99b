"""The names that timm gives to its DenseNets and to their stems, and the configurations that they stand for."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType

from denseport.errors import UsageError, quoted
from denseport.net.config import VARIANTS, DenseNetConfig

# timm/models/densenet.py: DenseNet; the widths of a `stem_type` at a growth rate of k
STEMS: Mapping[str, Callable[[int], tuple[int, ...]]] = MappingProxyType(
    {
        "": lambda k: (2 * k,),
        "deep": lambda k: (k, k, 2 * k),
        "deep_tiered": lambda k: (k // 4 * 3, k // 4 * 6, 2 * k),
        "deep_tiered_narrow": lambda k: (k // 4 * 3, 2 * k, 2 * k),
    }
)
# timm/models/densenet.py: densenet264d, densenetblur121d, DenseNet
NAMES: Mapping[str, DenseNetConfig] = MappingProxyType(
    {
        **VARIANTS,
        "densenet264d": DenseNetConfig.bc(48, (6, 12, 64, 48), 96, stem_kernel=3, stem_widths=STEMS["deep"](48)),
        "densenetblur121d": VARIANTS["densenet121"].replace(
            stem_widths=STEMS["deep"](32), stem_kernel=3, stem_pool="max-blur"
        ),
    }
)
# timm/models/densenet.py: default_cfgs; a tag names weights of an architecture
TAGS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "densenet121": ("ra_in1k", "tv_in1k"),
        "densenet161": ("tv_in1k",),
        "densenet169": ("tv_in1k",),
        "densenet201": ("tv_in1k",),
        "densenet264d": ("untrained",),
        "densenetblur121d": ("ra_in1k",),
    }
)
# timm/models/densenet.py: register_model_deprecations
OLD_NAMES: Mapping[str, str] = MappingProxyType({"tv_densenet121": "densenet121.tv_in1k"})


def find_config(name: str) -> DenseNetConfig:
    """The configuration that a name stands for, with one of timm's tags behind a dot or without.

    Raises:
        UsageError: No DenseNet is called so, or timm has no such tag of it.
    """
    architecture, _, tag = OLD_NAMES.get(name, name).partition(".")
    if architecture not in NAMES:
        known = [*NAMES, *OLD_NAMES]
        near = difflib.get_close_matches(architecture, known, n=1)
        hint = f"is {near[0]} meant?" if near else f"known: {', '.join(known)}"
        raise UsageError(f"no DenseNet is called {quoted(name)}; {hint}")
    tags = TAGS.get(architecture, ())
    if tag and tag not in tags:
        known_tags = f"known: {', '.join(tags)}" if tags else "it has none"
        raise UsageError(f"{quoted(name)}: {architecture} has no such tag; {known_tags}")
    return NAMES[architecture]


def timm_stem(config: DenseNetConfig) -> str | None:
    """What timm calls a stem of these widths, "" for one convolution; None where it has no such stem."""
    return next((name for name, widths in STEMS.items() if widths(config.growth_rate) == config.stem_widths), None)
