"""What a parity check runs on: noise, arrays or pictures, described once and read batch by batch in each worker."""

from denseport.running.images.image_set import ImageSet, given, noise, training_shape

__all__ = ["ImageSet", "given", "noise", "training_shape"]
