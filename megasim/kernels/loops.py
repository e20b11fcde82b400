"""The compiled loops as the passes call them. What each takes is said where it is written."""

from __future__ import annotations

from megasim.kernels.machine_code import Loop

# Of `compiled`: any element as float32.
half_to_single = Loop("compiled", "half_to_single")
bfloat16_to_single = Loop("compiled", "bfloat16_to_single")

# Of `fingerprint_loops`: a walk over one piece of a tensor.
walk_half = Loop("fingerprint_loops", "walk_half")
walk_bfloat16 = Loop("fingerprint_loops", "walk_bfloat16")
walk_single = Loop("fingerprint_loops", "walk_single")
walk_double = Loop("fingerprint_loops", "walk_double")
hash_integers = Loop("fingerprint_loops", "hash_integers")

# Of `pair_loops`: a chunk of all contents under one key, and the pairs of them.
add_halves = Loop("pair_loops", "add_halves")
add_singles = Loop("pair_loops", "add_singles")
add_doubles = Loop("pair_loops", "add_doubles")
raise_singles = Loop("pair_loops", "raise_singles")
raise_doubles = Loop("pair_loops", "raise_doubles")
add_products = Loop("pair_loops", "add_products")
