"""DenseNets for Keras: the twin of `denseport.models.pytorch`, and nets by the names that people know them by."""

from denseport.models.keras.backbone import DenseNet121Backbone as DenseNet121Backbone
from denseport.models.keras.backbone import DenseNet169Backbone as DenseNet169Backbone
from denseport.models.keras.backbone import DenseNet201Backbone as DenseNet201Backbone
from denseport.models.keras.backbone import DenseNetBackbone as DenseNetBackbone
from denseport.models.keras.layers import BatchNormalization as BatchNormalization
from denseport.models.keras.stock import DenseNet as DenseNet
from denseport.models.keras.stock import DenseNetImageNet121 as DenseNetImageNet121
from denseport.models.keras.stock import DenseNetImageNet161 as DenseNetImageNet161
from denseport.models.keras.stock import DenseNetImageNet169 as DenseNetImageNet169
from denseport.models.keras.stock import DenseNetImageNet201 as DenseNetImageNet201
from denseport.models.keras.stock import DenseNetImageNet264 as DenseNetImageNet264
from denseport.models.keras.stock import tutorial_densenet as tutorial_densenet
from denseport.models.keras.twin import densenet as densenet
from denseport.models.keras.twin import load as load
from denseport.models.keras.twin import norm as norm
