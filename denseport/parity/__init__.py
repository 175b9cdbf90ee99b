"""Parity: how far the outputs of two files are apart when each runs in a framework of its own."""
