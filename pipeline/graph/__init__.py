"""Sessions in; edges, nodes, queries and held-out sessions out."""
