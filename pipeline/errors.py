"""Errors that a person can mend: printed as one line, never as a traceback.

A message says where (file and row, or key), what was found and what was wanted.
Each class takes one string: Beam rebuilds an exception from its message alone.
"""


class ImgembedError(Exception):
    """The data or a run is not as it must be; exit code 1."""


class ConfigError(ImgembedError):
    """The command line or the configuration is not as it must be; exit code 2."""
