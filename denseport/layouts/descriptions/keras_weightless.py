"""What a Keras file of weights tells by the names of layers that have none: less than a configuration, but something.

Legacy files list every layer in `layer_names`; `.weights.h5` has an empty group for each, called by its class. Keras
names a layer by its class where nobody has named it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from denseport.errors import listed, quoted

NUMBER = r"(_\d{1,9})?"
POOLS = {"mean": rf"global_average_pooling[123]d{NUMBER}", "max": rf"global_max_pooling[123]d{NUMBER}"}
# Classes that change what a net computes: before the stem as a rule, or joining what no DenseNet joins so. What begins
# with tf is a function of TensorFlow in Keras 2.
CHANGING = re.compile(
    rf"(rescaling|normalization|resizing|center_crop|random_crop|lambda|tf_op_lambda|slicing_op_lambda|permute"
    r"|multiply|add|subtract|maximum|minimum|average"
    rf"|tf\.(math|__operators__|cast|image|reverse|compat|clip_by_value|nn\.bias_add)[\w.]*?){NUMBER}"
)


def pool_trait(weightless: Iterable[str]) -> dict[str, Any]:
    """The global pool, where the layers show one alone."""
    names = [name.rpartition("/")[2] for name in weightless]
    found = [pool for pool, pattern in POOLS.items() if any(re.fullmatch(pattern, name) for name in names)]
    return {"head_pool": found[0]} if len(found) == 1 else {}


def note(weightless: Iterable[str]) -> str:
    """What to say of layers whose effect only a configuration would tell, or ""."""
    names = dict.fromkeys(name for name in weightless if CHANGING.fullmatch(name.rpartition("/")[2]))
    if not names:
        return ""
    return (
        f"the file is that of a model which has {listed(map(quoted, names))}, and a file of weights does not say what "
        "such layers do: give the whole model (.keras), or, where they prepare images, prepare them so before"
    )
