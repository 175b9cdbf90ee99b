"""keras_hub opens a folder of timm's, converts its weights on the way, and saves them: `FOLDER DST`."""

from __future__ import annotations

import sys

import keras_hub


def main(folder: str, dst: str) -> None:
    keras_hub.models.ImageClassifier.from_preset(folder).save_weights(dst)


if __name__ == "__main__":
    main(*sys.argv[1:])
