"""The image catalog and the graph in, neighbour-augmented tf.train.Examples out."""
