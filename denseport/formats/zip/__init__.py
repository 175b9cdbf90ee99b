"""Zip archives: those of strangers read with suspicion, our own written so that tensors can be mapped."""
