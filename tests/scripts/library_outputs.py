"""Libraries' own nets and denseport's twins: `FRAMEWORK REQUESTS.json` runs nets, and prints what became of each.

A request has `net`, a name in LIBRARIES or `twin`; the `file` that it loads; `like`, the file that it takes the
architecture from; `dtype`; `images` (N, *spatial, C), a npy file; `output`, the npy file to write; and `saves`, files
that Keras then saves the whole net to. The answers have the net's class, or the error that says why there is none.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

import denseport
from denseport.running.libraries import LIBRARIES
from denseport.source import Source


def loaded(framework: str, net: str, file: Path, like: Path, dtype: str):
    if net == "twin":
        return (denseport.load_keras if framework == "keras" else denseport.load_torch)(file, dtype=dtype)
    with Source(like) as source:
        found = source.detection
        config = found.config
    return LIBRARIES[net].load(file, config, dtype)


def outputs(framework: str, net, images: np.ndarray) -> np.ndarray:
    if framework == "keras":
        return np.asarray(net(images, training=False))
    import torch

    with torch.inference_mode():
        return net(torch.from_numpy(np.moveaxis(images, -1, 1).copy())).numpy()


def answer(framework: str, request: dict) -> dict[str, str]:
    dtype = request["dtype"]
    try:
        net = loaded(framework, request["net"], Path(request["file"]), Path(request["like"]), dtype)
    except denseport.DenseportError as error:
        return {"error": str(error), "kind": type(error).__name__}
    np.save(request["output"], outputs(framework, net, np.load(request["images"]).astype(dtype)))
    for path in request["saves"]:
        net.save(path)
    return {"class": f"{type(net).__module__}.{type(net).__name__}"}


if __name__ == "__main__":
    requests = json.loads(Path(sys.argv[2]).read_text())
    print(json.dumps([answer(sys.argv[1], request) for request in requests]))
