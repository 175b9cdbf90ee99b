"""DenseNets for PyTorch: the twin of `denseport.models.keras`, and nets by the names that people know them by."""

from denseport.models.pytorch.constructors import create
from denseport.models.pytorch.densenet import DenseNet, load, norm
from denseport.models.pytorch.features import FeatureInfo, FeatureNet

__all__ = ["DenseNet", "FeatureInfo", "FeatureNet", "create", "load", "norm"]
