"""A backbone from keras_cv's own configuration and weights: `FOLDER CONFIG`, with FOLDER/cv.h5 loaded by name.

Writes its pooled features for FOLDER/images.npy to FOLDER/cv.own.npy.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from keras_checkpoints import logits

from denseport.models.keras import DenseNetBackbone

folder = Path(sys.argv[1])
model = DenseNetBackbone.from_config(json.loads(sys.argv[2]))
model.load_weights(folder / "cv.h5", by_name=True)
np.save(folder / "cv.own.npy", logits(model, np.load(folder / "images.npy")))
