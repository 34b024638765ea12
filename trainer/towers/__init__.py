"""The towers: pictures, ready features, texts or small graphs in, embeddings of length 1 out."""
