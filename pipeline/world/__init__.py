"""The synthetic world behind `imgembed sample`: pictures, a catalog, search logs and their truth.

Everything is drawn from one seed, nothing is downloaded, no wall clock is read: the same
configuration gives the same bytes. `generate.write_world` is the way in; `raw_pixels` measures how
far one gets on the pictures without learning anything.
"""
