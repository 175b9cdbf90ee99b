"""What libraries write of a net beside its weights: Keras' configurations, timm's `config.json`, keras_hub's files."""
