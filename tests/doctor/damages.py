"""Damages that are done to a sound store by hand, each with the check that has to find it."""

from __future__ import annotations

A_DISTANCE = "rowid = (select min(rowid) from tensor_distance)"
A_TENSOR = "id = (select min(tensor_id) from model_tensor)"
A_SUM = "rowid = (select min(rowid) from component_distance where l2 > 0)"

# What was done → (check, SQL).
DAMAGES = {
    "a source that no model has": (
        "models_that_cannot_be",
        "update model set source = 'dream' where id = 1",
    ),
    "a checkpoint without its path": (
        "models_of_no_file",
        "update model set path = null where id = 1",
    ),
    "a negative size": ("models_that_cannot_be", "update model set bytes = -1 where id = 1"),
    "fingerprints of a version to come": (
        "models_that_cannot_be",
        "update model set fingerprint_version = 99 where id = 1",
    ),
    "another sketch size": (
        "models_that_cannot_be",
        "update model set sketch_size = 17 where id = 1",
    ),
    "a half-written model": (
        "models_without_contents",
        "delete from model_tensor where model_id = 1",
    ),
    "a lost key": (
        "models_that_lost_rows",
        "delete from model_tensor where rowid = (select min(rowid) from model_tensor)",
    ),
    "a key under another name": (
        "models_that_lost_rows",
        "update model_tensor set key = 'x', canonical_key = 'x' "
        "where rowid = (select min(rowid) from model_tensor)",
    ),
    "the content of another key": (
        "models_that_lost_rows",
        "update model_tensor set tensor_id = (select max(id) from tensor where numel = 4096) "
        "where rowid = (select min(rowid) from model_tensor)",
    ),
    "another component": (
        "models_that_lost_rows",
        "update model_tensor set component = 'vae' "
        "where rowid = (select min(rowid) from model_tensor)",
    ),
    "a lost content": ("keys_of_no_content", f"delete from tensor where {A_TENSOR}"),
    "a key that stands twice": (
        "keys_held_twice",
        "insert into model_tensor from model_tensor limit 1",
    ),
    "a shape of another size": (
        "shapes_that_do_not_fit",
        "update model_tensor set shape = [3, 3] "
        "where rowid = (select min(rowid) from model_tensor)",
    ),
    "a lost model": ("rows_of_no_model", "delete from model where id = 2"),
    "a pair of nobody": (
        "rows_of_no_model",
        "insert into model_pair by name select 7 as model_a, 99 as model_b, true as done, "
        "false as linf, false as cossim",
    ),
    "a group of nobody": ("rows_of_no_model", "insert into pair_group values ('g', 1, 99)"),
    "a distance of no content": (
        "rows_of_no_content",
        "insert into tensor_distance values (1, 9999, 1, 1, 1, 1)",
    ),
    "an altered value hash": (
        "contents_that_were_altered",
        f"update tensor set value_hash = reverse(value_hash) where {A_TENSOR}",
    ),
    "an altered content hash": (
        "contents_that_were_altered",
        f"update tensor set content_hash = reverse(content_hash) where {A_TENSOR}",
    ),
    "an altered norm": (
        "contents_that_were_altered",
        f"update tensor set l1 = l1 * 1.001 where {A_TENSOR}",
    ),
    "a hash that is none": (
        "contents_that_cannot_be",
        f"update tensor set fp16_hash = 'xyz' where {A_TENSOR}",
    ),
    "a dtype that is none": (
        "contents_that_cannot_be",
        f"update tensor set dtype = 'float17' where {A_TENSOR}",
    ),
    "more zeros than elements": (
        "contents_that_cannot_be",
        f"update tensor set zeros = numel + 1 where {A_TENSOR}",
    ),
    "norms beside NaN": ("contents_that_cannot_be", f"update tensor set nans = 1 where {A_TENSOR}"),
    "a negative norm": ("contents_that_cannot_be", f"update tensor set l2 = -l2 where {A_TENSOR}"),
    "a norm that is NaN": (
        "contents_that_cannot_be",
        f"update tensor set l1 = 'nan' where {A_TENSOR}",
    ),
    "norms out of order": (
        "contents_that_cannot_be",
        f"update tensor set l2 = l1 * 2 where {A_TENSOR}",
    ),
    "moments without the norm": (
        "contents_that_cannot_be",
        f"update tensor set std = std * 2 where {A_TENSOR}",
    ),
    "a short sketch": (
        "sketches_that_do_not_fit",
        f"update tensor set sketch = sketch[:7] where {A_TENSOR}",
    ),
    "a sketch of another tensor": (
        "sketches_that_do_not_fit",
        f"update tensor set sketch = list_transform(sketch, lambda x: 3 * x) where {A_TENSOR}",
    ),
    "a sketch with NaN": (
        "sketches_that_do_not_fit",
        "update tensor set sketch = list_transform(sketch, lambda x: 'nan'::float) "
        f"where {A_TENSOR}",
    ),
    "a pair the wrong way round": (
        "distances_out_of_order",
        f"update tensor_distance set tensor_a = tensor_b, tensor_b = tensor_a where {A_DISTANCE}",
    ),
    "a distance that stands twice": (
        "distances_held_twice",
        "insert into tensor_distance from tensor_distance limit 1",
    ),
    "a negative distance": (
        "distances_that_cannot_be",
        f"update tensor_distance set l2 = -l2 where {A_DISTANCE}",
    ),
    "a distance that is NaN": (
        "distances_that_cannot_be",
        f"update tensor_distance set l1 = 'nan' where {A_DISTANCE}",
    ),
    "an infinite distance": (
        "distances_that_cannot_be",
        f"update tensor_distance set l1 = 'inf' where {A_DISTANCE}",
    ),
    "more differences than elements": (
        "distances_that_cannot_be",
        f"update tensor_distance set l0 = 1000000 where {A_DISTANCE}",
    ),
    "unequal contents at 0": (
        "distances_that_cannot_be",
        f"update tensor_distance set l0 = 0, l1 = 0, l2 = 0 where {A_DISTANCE}",
    ),
    "equal contents apart": (
        "distances_that_cannot_be",
        "update tensor set value_hash = (select value_hash from tensor where id = "
        f"(select tensor_b from tensor_distance where {A_DISTANCE})) "
        f"where id = (select tensor_a from tensor_distance where {A_DISTANCE})",
    ),
    "l2 above l1": (
        "distances_that_cannot_be",
        f"update tensor_distance set l1 = l2 / 2 where {A_DISTANCE}",
    ),
    "l1 above √l0 · l2": (
        "distances_that_cannot_be",
        f"update tensor_distance set l0 = 1 where {A_DISTANCE}",
    ),
    "a distance beyond the norms": (
        "distances_that_cannot_be",
        f"update tensor_distance set l1 = l1 * 1000, l2 = l2 * 1000 where {A_DISTANCE}",
    ),
    "a metric version to come": (
        "distances_that_cannot_be",
        f"update tensor_distance set metric_version = 99 where {A_DISTANCE}",
    ),
    "l2 × 10": (
        "distances_against_sketches",
        f"update tensor_distance set l1 = l1 * 10, l2 = l2 * 10 where {A_DISTANCE}",
    ),
    "a distance longer than the way round": (
        "distances_against_triangles",
        f"update tensor_distance set l1 = l1 * 10, l2 = l2 * 10 where {A_DISTANCE}",
    ),
    "a largest difference above l2": (
        "linfs_that_cannot_be",
        "update tensor_linf set linf = linf * 1000 where rowid = 0",
    ),
    "a largest difference of 0": ("linfs_that_cannot_be", "update tensor_linf set linf = 0"),
    "a largest difference alone": (
        "linfs_that_cannot_be",
        "delete from tensor_distance where rowid = 0",
    ),
    "more values within half a step than there are": (
        "roundings_that_cannot_be",
        "insert into tensor_rounding "
        f"select tensor_a, tensor_b, 7, 8, 0, '', 0, 1 from tensor_distance where {A_DISTANCE}",
    ),
    "a value beyond by nothing": (
        "roundings_that_cannot_be",
        "insert into tensor_rounding "
        f"select tensor_a, tensor_b, 7, 6, 0, '', 0, 1 from tensor_distance where {A_DISTANCE}",
    ),
    "a proof by no values": (
        "roundings_that_cannot_be",
        "insert into tensor_rounding "
        "select tensor_a, tensor_b, 7, 6, 1, 'scaled', 0, 1 from tensor_distance "
        f"where {A_DISTANCE}",
    ),
    "a cosine of 2": ("cossims_that_cannot_be", "update tensor_cossim set cossim = 2"),
    "a cosine that is NaN": ("cossims_that_cannot_be", "update tensor_cossim set cossim = 'nan'"),
    "a cosine over rows that are none": (
        "cossims_that_cannot_be",
        "update tensor_cossim set rows = 13",
    ),
    "a pair of models the wrong way round": (
        "pairs_that_cannot_be",
        "update model_pair set model_a = model_b, model_b = model_a where rowid = 0",
    ),
    "a pair of models that stands twice": (
        "pairs_that_cannot_be",
        "insert into model_pair from model_pair limit 1",
    ),
    "sums that stand twice": (
        "pairs_that_cannot_be",
        "insert into component_distance from component_distance limit 1",
    ),
    "done without distances": ("done_without_distances", "delete from tensor_distance"),
    "done without one that was asked for": ("done_without_distances", "delete from tensor_linf"),
    "done without a cosine": ("done_without_distances", "delete from tensor_cossim"),
    "a renamed key that is none": (
        "renames_that_cannot_be",
        "update renamed_key set key_a = 'nowhere' where rowid = 0",
    ),
    "two keys renamed to one": (
        "renames_that_cannot_be",
        "update renamed_key set key_b = (select max(key_b) from renamed_key)",
    ),
    "a rename of fewer keys than it says": (
        "renames_that_cannot_be",
        "delete from renamed_key where rowid = 0",
    ),
    "a negative sum": (
        "sums_that_do_not_follow",
        f"update component_distance set l2 = -l2 where {A_SUM}",
    ),
    "a sum × 1.001": (
        "sums_that_do_not_follow",
        f"update component_distance set l2 = l2 * 1.001 where {A_SUM}",
    ),
    "fewer changed keys than there are": (
        "sums_that_do_not_follow",
        f"update component_distance set changed = changed - 1, identical = identical + 1 "
        f"where {A_SUM}",
    ),
    "a coverage of 2": (
        "sums_that_do_not_follow",
        f"update component_distance set coverage = 2 where {A_SUM}",
    ),
    "lost sums": ("sums_that_do_not_follow", f"delete from component_distance where {A_SUM}"),
    "a pair that is not done": (
        "sums_that_do_not_follow",
        "update model_pair set done = false where rowid = 0",
    ),
    "sums of a source that is none": (
        "sums_that_do_not_follow",
        f"update component_distance set source = 'guess' where {A_SUM}",
    ),
}
