"""Where a layout's net computes something else than a given one, whatever the weights; and what that does."""

from __future__ import annotations

from denseport.layouts.spec import Layout
from denseport.net.config import DenseNetConfig

# Sizes are relative to the largest logit of a DenseNet-121; how large they are depends on the weights.
EFFECTS = {
    "epsilon": "which moves the logits by 1e-5 or so for 1e-6 more, and by 1e-2 or so for 1e-3",
    "padding": "which shifts the stem at even image sizes and moves the logits there by 1 to 5 %",
    "stem_stride": "which changes the size of every map",
    "stem_pool": "which changes the size or the values of every map",
    "final_activation": "which lets negative features through to the classifier, or cuts them off",
}


def mismatches(layout: Layout, config: DenseNetConfig) -> dict[str, str]:
    """A sentence for each trait in which a net of `layout` differs from `config`; none where both compute the same."""
    return {
        trait: f"layout {layout.name} has {trait} {own}, this net has {value}, {EFFECTS[trait]}"
        for trait, (own, value) in layout.differs(config).items()
    }
