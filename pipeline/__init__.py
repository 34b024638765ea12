"""Beam jobs: logs and catalog in, graph and examples out; model in, embeddings out."""
