"""One command a file; each opens, calls the library, and shows what came out."""
