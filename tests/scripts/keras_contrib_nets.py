"""keras-contrib's nets, which are titu1994's with names; see keras_checkpoints.py for the command line.

The head has no name: Keras numbers it. Variables carry the scopes in which their layers were made, except in tf_keras.
Source: keras_contrib/applications/densenet.py: DenseNet (pooling="avg"), __create_dense_net, __dense_block,
__conv_block, __transition_block.
"""

from __future__ import annotations

from keras_checkpoints import keras, run
from titu1994_nets import NETS, dense_net

SCOPE = getattr(keras, "name_scope", None) or keras.backend.name_scope


def net(name: str, shape: tuple[int, ...]):
    return dense_net(shape, **NETS[name], name=str, scope=SCOPE)


if __name__ == "__main__":
    run(net)
