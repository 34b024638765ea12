"""A run measured on what it has not seen: held-out sessions, labels, judgments; runs compared."""
