"""The compiled loops as the passes call them. What each takes is said where it is written."""

from __future__ import annotations

from megasim.kernels import known_tiles as known
from megasim.kernels.machine_code import KnownTile, Loop

# Of `compiled`: any element as float32.
half_to_single = Loop(
    "compiled", "half_to_single", KnownTile(known.half_to_single, "d32f80e8ee7b7e18")
)
bfloat16_to_single = Loop(
    "compiled", "bfloat16_to_single", KnownTile(known.bfloat16_to_single, "debd33634890293b")
)

# Of `walk_loops`: walks over tensors, and what is made of their sums.
walk_halves = Loop("walk_loops", "walk_halves", KnownTile(known.walk_halves, "2e4ec12465c82ecb"))
walk_bfloat16s = Loop(
    "walk_loops", "walk_bfloat16s", KnownTile(known.walk_bfloat16s, "6a5739c535d1ce94")
)
walk_singles = Loop("walk_loops", "walk_singles", KnownTile(known.walk_singles, "d73c4df45caa9caf"))
walk_doubles = Loop("walk_loops", "walk_doubles", KnownTile(known.walk_doubles, "f93fbdbcc0b69169"))
hash_integers = Loop(
    "walk_loops", "hash_integers", KnownTile(known.hash_integers, "55da5be5fca6f58d")
)
finish_walks = Loop("walk_loops", "finish_walks", KnownTile(known.finish_walks, "7981c9c932903a5d"))

# Of `pair_loops`: a chunk of all contents under one key, and the pairs of them.
add_halves = Loop("pair_loops", "add_halves", KnownTile(known.add_halves, "7a281afae334f150"))
add_singles = Loop("pair_loops", "add_singles", KnownTile(known.add_singles, "c00a02d85403813d"))
add_doubles = Loop("pair_loops", "add_doubles", KnownTile(known.add_doubles, "df9ba20a4decf5b6"))
raise_singles = Loop(
    "pair_loops", "raise_singles", KnownTile(known.raise_singles, "2555767bebee5b69")
)
raise_doubles = Loop(
    "pair_loops", "raise_doubles", KnownTile(known.raise_doubles, "13f0442f75c2600c")
)
add_products = Loop(
    "pair_loops",
    "add_products",
    KnownTile(known.add_products_of_singles, "d1e641b95664b345"),
    KnownTile(known.add_products_of_doubles, "7441d86110291775"),
)

# Of `tally_loops`: the sums of all pairs, out of sketches.
tally_key = Loop("tally_loops", "tally_key", KnownTile(known.tally_key, "e3bb4204968a40c8"))
squared_differences = Loop(
    "tally_loops", "squared_differences", KnownTile(known.squared_differences, "00aa797c1945dd9d")
)

# Of `block_loops`: values out of blocks of codes.
decode_q8_0 = Loop("block_loops", "decode_q8_0", KnownTile(known.decode_q8_0, "d2a64e4f0f6d0db8"))
decode_q4_0 = Loop("block_loops", "decode_q4_0", KnownTile(known.decode_q4_0, "b63fcd63d0ef8e45"))
decode_q4_k = Loop("block_loops", "decode_q4_k", KnownTile(known.decode_q4_k, "6960dd7bfccc9d3d"))
decode_q5_k = Loop("block_loops", "decode_q5_k", KnownTile(known.decode_q5_k, "9f3c1254ecc59742"))
decode_q6_k = Loop("block_loops", "decode_q6_k", KnownTile(known.decode_q6_k, "bdd53438d4b5209c"))
# Of `lookup_loops`: codes of few bits as the numbers that they stand for.
look_up = Loop("lookup_loops", "look_up", KnownTile(known.look_up, "c60f1951fcee21f8"))
look_up_pairs = Loop(
    "lookup_loops", "look_up_pairs", KnownTile(known.look_up_pairs, "edb5a801c3d146aa")
)
