"""Carry DenseNet weights between PyTorch and Keras, with proof that both compute the same."""
