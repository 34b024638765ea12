"""Session logs in, sessions out."""
