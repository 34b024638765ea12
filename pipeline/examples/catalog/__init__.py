"""The catalog: pictures in folders, archives and tables, or ready features, read as one table."""
