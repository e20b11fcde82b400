"""The compiled loops as the passes call them. What each takes is said where it is written."""

from __future__ import annotations

from megasim.kernels.machine_code import Loop

# Of `compiled`: any element as float32.
half_to_single = Loop("compiled", "half_to_single")
bfloat16_to_single = Loop("compiled", "bfloat16_to_single")

# Of `walk_loops`: walks over tensors, and what is made of their sums.
walk_halves = Loop("walk_loops", "walk_halves")
walk_bfloat16s = Loop("walk_loops", "walk_bfloat16s")
walk_singles = Loop("walk_loops", "walk_singles")
walk_doubles = Loop("walk_loops", "walk_doubles")
hash_integers = Loop("walk_loops", "hash_integers")
finish_walks = Loop("walk_loops", "finish_walks")

# Of `pair_loops`: a chunk of all contents under one key, and the pairs of them.
add_halves = Loop("pair_loops", "add_halves")
add_singles = Loop("pair_loops", "add_singles")
add_doubles = Loop("pair_loops", "add_doubles")
raise_singles = Loop("pair_loops", "raise_singles")
raise_doubles = Loop("pair_loops", "raise_doubles")
add_products = Loop("pair_loops", "add_products")
