-- How models and what they hold come into the store, move, and go. However many models there are,
-- each statement runs once: {batch} has a row for each model, content or key.

-- name: next_model_id
-- A free id for a model, beyond those that are kept for the parts of a job that are still to come.
select greatest(
    (select coalesce(max(id), 0) from model),
    (select coalesce(max(last_id), 0) from imported_shard)
) + 1;

-- name: next_tensor_id
-- A free id for a tensor.
select coalesce(max(id), 0) + 1 from tensor;

-- name: parts_of_files
-- The further parts of files, {batch} their main models, in the order they came.
select p.file_model_id, coalesce(p.part, '') as part, p.id
from model p
join batch b on b.model_id = p.file_model_id
order by p.id;

-- name: add_models
-- Models; what they hold follows in the same transaction.
insert into model (
    id, name, source, path, format, bytes, mtime_ns, header_hash, family, variant, layout,
    metadata, skipped, ingested_at, fingerprint_version, sketch_size, part, part_role,
    file_model_id, tier, sample_level
)
select
    id, name, source, path, format, bytes, mtime_ns, header_hash, family, variant, layout,
    metadata, skipped, $ingested_at, fingerprint_version, sketch_size, part, part_role,
    file_model_id, tier, sample_level
from batch
order by id;

-- name: move_models
-- The files of models lie elsewhere now.
update model m set path = b.path from batch b where b.model_id in (m.id, m.file_model_id);

-- name: rename_parts
-- The further parts of a file are called after its model, which gets another name.
update model p
set name = $name || substr(p.name, length(m.name) + 1)
from model m
where m.id = $id and p.file_model_id = m.id and starts_with(p.name, m.name);

-- name: rename_model
-- A model gets another name.
update model set name = $name where id = $id;

-- name: known_tensors
-- Which of some contents the store has, and whether their fingerprints are of the same version.
select t.content_hash, t.id, t.fingerprint_version is not distinct from b.version
from tensor t
join batch b on b.content_hash = t.content_hash;

-- name: renew_tensors
-- Fingerprints of known contents that are of another version, or wrong.
update tensor t
set
    value_hash = b.value_hash, fp16_hash = b.fp16_hash, bf16_hash = b.bf16_hash, dtype = b.dtype,
    numel = b.numel, l1 = b.l1, l2 = b.l2, linf = b.linf, mean = b.mean, std = b.std,
    kurtosis = b.kurtosis, zeros = b.zeros, nans = b.nans, infs = b.infs,
    is_constant = b.is_constant, sketch = b.sketch, fingerprint_version = b.version,
    digest = tensor_digest(
        b.content_hash, b.value_hash, b.fp16_hash, b.bf16_hash, b.dtype, b.numel, b.l1, b.l2, b.linf,
        b.mean, b.std, b.kurtosis, b.zeros, b.nans, b.infs, b.is_constant
    )
from batch b
where b.id = t.id;

-- name: add_tensors
-- New contents.
insert into tensor
select
    id, content_hash, value_hash, fp16_hash, bf16_hash, dtype, numel,
    l1, l2, linf, mean, std, kurtosis, zeros, nans, infs, is_constant, sketch, version,
    tensor_digest(
        content_hash, value_hash, fp16_hash, bf16_hash, dtype, numel, l1, l2, linf, mean, std,
        kurtosis, zeros, nans, infs, is_constant
    )
from batch
order by id;

-- name: known_profiles
-- Of which contents profiles are kept, and how many norms of rows and of columns.
select p.tensor_id, octet_length(p.rows) // 2, octet_length(p.columns) // 2
from profile p
join batch b on b.tensor_id = p.tensor_id;

-- name: add_profiles
-- Profiles of contents.
insert into profile select tensor_id, rows::blob, columns::blob from batch order by tensor_id;

-- name: seal_models
-- All that some models hold is saved: note what it is. Their ids lie between $first and $last, which
-- spares most of a large store the search.
update model m
set contents_digest = c.digest
from contents_digests c
where c.model_id between $first and $last
    and m.id = c.model_id
    and m.id in (select model_id from batch);

-- name: add_model_tensors
-- What models hold.
insert into model_tensor
select
    model_id, tensor_id, key, sources, transposed, canonical_key, canonical_shape,
    -- a scalar has the empty text and the empty shape
    list_transform(list_filter(string_split(shape, 'x'), lambda n: n <> ''), lambda n: n::bigint),
    component, block, role, nature, representation
from batch
order by model_id, canonical_key;

-- name: add_model_listed
-- The keys of models of which only the header, or a sample, was read.
insert into listed_key
select
    model_id, key, sources, transposed, canonical_key, canonical_shape,
    -- a scalar has the empty text and the empty shape
    list_transform(list_filter(string_split(shape, 'x'), lambda n: n <> ''), lambda n: n::bigint),
    component, block, role, nature, representation, dtype, numel, sampled, content_hash, non_finite,
    l2
from batch
order by model_id, canonical_key;

-- name: add_model_unread
-- The keys of models whose tensors could not be read.
insert into unread_key
select
    model_id, key, canonical_key, component, reason, dtype,
    -- a scalar has the empty text and the empty shape
    list_transform(list_filter(string_split(shape, 'x'), lambda n: n <> ''), lambda n: n::bigint),
    numel, digest, note
from batch
order by model_id, key;

-- name: add_model_tied
-- Keys of models that share the tensor of another key.
insert into tied_key select model_id, key, tied_to from batch order by model_id, key;

-- name: add_model_beside
-- What stands in the files of models beside their state dicts.
insert into beside
select model_id, place, role, tensors, numel, bytes, digest from batch order by model_id, place;

-- name: copy_model_tensors
-- Second copies of known files, model_id, hold what the first, twin_id, hold.
insert into model_tensor
select b.model_id, t.* exclude (model_id)
from model_tensor t
join batch b on b.twin_id = t.model_id
order by b.model_id, t.canonical_key;

-- name: copy_model_listed
-- Second copies of known files have the keys of the first.
insert into listed_key
select b.model_id, l.* exclude (model_id)
from listed_key l
join batch b on b.twin_id = l.model_id
order by b.model_id, l.canonical_key;

-- name: copy_model_unread
-- Second copies of known files lack what the first lack.
insert into unread_key
select b.model_id, u.* exclude (model_id)
from unread_key u
join batch b on b.twin_id = u.model_id
order by b.model_id, u.key;

-- name: copy_model_tied
-- Second copies of known files tie what the first tie.
insert into tied_key
select b.model_id, t.* exclude (model_id)
from tied_key t
join batch b on b.twin_id = t.model_id
order by b.model_id, t.key;

-- name: copy_model_beside
-- Second copies of known files have beside them what the first have.
insert into beside
select b.model_id, s.* exclude (model_id)
from beside s
join batch b on b.twin_id = s.model_id
order by b.model_id, s.place;

-- name: copy_model_folded
-- Second copies of known files have the folded sketches of the first.
insert into folded_sketch
select b.model_id, f.* exclude (model_id)
from folded_sketch f
join batch b on b.twin_id = f.model_id
order by b.model_id, f.component;

-- name: remove_model_tensors
-- Forget what models hold.
delete from model_tensor where model_id in (select model_id from batch);

-- name: remove_model_listed
-- Forget the keys of models of which only the header, or a sample, was read.
delete from listed_key where model_id in (select model_id from batch);

-- name: remove_model_unread
-- Forget which tensors of models could not be read.
delete from unread_key where model_id in (select model_id from batch);

-- name: remove_model_tied
-- Forget which keys of models share a tensor.
delete from tied_key where model_id in (select model_id from batch);

-- name: remove_model_beside
-- Forget what stands in the files of models beside their state dicts.
delete from beside where model_id in (select model_id from batch);

-- name: remove_model_folded
-- Forget the folded sketches of models.
delete from folded_sketch where model_id in (select model_id from batch);

-- name: remove_model_pairs
-- Forget the pairs of models.
delete from model_pair
where model_a in (select model_id from batch) or model_b in (select model_id from batch);

-- name: remove_model_renames
-- Forget the renames of models.
delete from rename
where model_a in (select model_id from batch) or model_b in (select model_id from batch);

-- name: remove_model_renamed_keys
-- Forget the renamed keys of models.
delete from renamed_key
where model_a in (select model_id from batch) or model_b in (select model_id from batch);

-- name: remove_model_components
-- Forget the component distances of models.
delete from component_distance
where model_a in (select model_id from batch) or model_b in (select model_id from batch);

-- name: remove_model_layers
-- Forget the imported distances of models.
delete from imported_layer
where model_a in (select model_id from batch) or model_b in (select model_id from batch);

-- name: remove_model_samples
-- Forget what samples said of pairs of models.
delete from sampled_distance
where model_a in (select model_id from batch) or model_b in (select model_id from batch);

-- name: remove_model_groups
-- Forget the groups of models.
delete from pair_group
where model_a in (select model_id from batch) or model_b in (select model_id from batch);

-- name: remove_models
-- Forget models.
delete from model where id in (select model_id from batch);
