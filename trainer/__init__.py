"""TensorFlow: examples in, a trained embedding model out, and how good it is."""
