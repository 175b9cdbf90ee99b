"""The containers of Keras: legacy h5, `.weights.h5`, and the `.keras` archive."""
