"""Graph agreement models: which pairs of nodes are of one class, in turns with a classifier.

Stretcu, Viswanathan, Movshovitz-Attias, Platanios, Ravi and Tomkins, "Graph Agreement Models for
Semi-Supervised Learning", NeurIPS 2019. Nodes are rows of arrays; nothing here reads a file.

    labels, edges ─► pairs ─► network, fitting ─► agreement of edges      pairs, network, fitting
                                                     │                    targets: without labels
    labels, edges, agreement ─► pairs of a step ─► loss ─► classifier     pairs, loss, classifiers
          ▲                                                  │
          └───────────────── self-labelling ◄────────────────┘            labels, cotraining, judges
"""
