"""DenseNets for PyTorch: the twin of `denseport.models.keras`, and nets by the names that people know them by."""

from denseport.models.pytorch.constructors import create as create
from denseport.models.pytorch.densenet import DenseNet as DenseNet
from denseport.models.pytorch.densenet import load as load
from denseport.models.pytorch.densenet import norm as norm
from denseport.models.pytorch.features import FeatureInfo as FeatureInfo
from denseport.models.pytorch.features import FeatureNet as FeatureNet
