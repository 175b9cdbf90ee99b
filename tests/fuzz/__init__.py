"""Fuzzing of every reader: valid files, changed at random and with method, are read or refused, and nothing else."""
