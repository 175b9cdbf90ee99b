"""What PyTorch checkpoints are made of: a pickle that builds tensors and nothing else, over storages in a file."""
