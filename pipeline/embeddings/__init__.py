"""Embeddings of a catalog and of queries through Beam, and exact search among them."""
