-- Jobs that several machines share, each with a file of its own: what is written, and taken in.

-- name: unfinished_pairs
-- Of some pairs that were added, those of which a distance is still missing.
with finite as (
    select
        mt.model_id, mt.canonical_key, mt.canonical_shape, mt.tensor_id, t.value_hash,
        coalesce(mt.shape[1], 1) as rows
    from model_tensor mt
    join tensor t on t.id = mt.tensor_id
    where t.nans + t.infs = 0
        and mt.model_id in (select model_a from batch union select model_b from batch)
),
-- as the plan of a comparison pairs them
met as (
    select
        p.model_a,
        p.model_b,
        least(a.tensor_id, b.tensor_id)    as tensor_a,
        greatest(a.tensor_id, b.tensor_id) as tensor_b,
        a.rows
    from batch p
    join finite a on a.model_id = p.model_a
    left join renamed_key r
        on r.model_a = p.model_a and r.model_b = p.model_b and r.key_a = a.canonical_key
    join finite b
        on b.model_id = p.model_b and b.canonical_key = coalesce(r.key_b, a.canonical_key)
    where a.canonical_shape = b.canonical_shape
        and a.tensor_id <> b.tensor_id
        and a.value_hash <> b.value_hash
)
select distinct m.model_a, m.model_b
from met m
left join tensor_distance d on d.tensor_a = m.tensor_a and d.tensor_b = m.tensor_b
left join tensor_linf x on x.tensor_a = m.tensor_a and x.tensor_b = m.tensor_b
left join tensor_cossim c
    on c.tensor_a = m.tensor_a and c.tensor_b = m.tensor_b and c.rows = m.rows
where d.tensor_a is null
    or ($linf and x.tensor_a is null)
    or ($cossim and c.tensor_a is null)
order by all;

-- name: columns_of_ingest_shards
-- The columns of the file of a shard of an ingest: one for each table, with its columns within.
select column_name, column_type
from (
    describe (
        select 'model' as record, m as model from model m
        union all by name
        select 'file' as record, {'path': '', 'place': 0::bigint} as file
        union all by name
        select 'tensor' as record, t as tensor from tensor t
        union all by name
        select 'profile' as record, p as profile from profile p
        union all by name
        select 'model_tensor' as record, h as model_tensor from model_tensor h
        union all by name
        select 'unread_key' as record, u as unread_key from unread_key u
        union all by name
        select 'tied_key' as record, d as tied_key from tied_key d
        union all by name
        select 'beside' as record, b as beside from beside b
        union all by name
        select 'folded_sketch' as record, f as folded_sketch from folded_sketch f
    )
)
order by all;

-- name: write_ingest_shard
-- All that an ingest saved in a store of its own, a row of this file for each row of a table.
copy (
    select 'model' as record, m as model from model m
    union all by name
    select 'file' as record, {'path': path::varchar, 'place': place::bigint} as file from batch
    union all by name
    select 'tensor' as record, t as tensor from tensor t
    union all by name
    select 'profile' as record, p as profile from profile p
    union all by name
    select 'model_tensor' as record, h as model_tensor from model_tensor h
    union all by name
    select 'unread_key' as record, u as unread_key from unread_key u
    union all by name
    select 'tied_key' as record, d as tied_key from tied_key d
    union all by name
    select 'beside' as record, b as beside from beside b
    union all by name
    select 'folded_sketch' as record, f as folded_sketch from folded_sketch f
) to $path (
    format parquet,
    compression zstd,
    row_group_size 4096,
    kv_metadata {
        megasim_shard: $kind,
        format: $format_version,
        schema: $schema_version,
        job: $job,
        part: $part,
        parts: $parts,
        files: $files,
        sketch_size: $sketch_size,
        versions: $versions
    }
);

-- name: write_compare_shard
-- The distances that a shard of a comparison computed, by the contents that they are of, and the
-- pairs of models that all shards of it are for.
copy (
    select
        'pair' as record, a.name as model_a, b.name as model_b,
        null::varchar as content_a, null::varchar as content_b, null::bigint as rows,
        null::bigint as l0, null::double as l1, null::double as l2,
        null::double as linf, null::double as cossim,
        null::bigint as measured, null::bigint as within, null::double as excess,
        null::varchar as basis, null::bigint as proving
    from batch p
    join model a on a.id = p.model_a
    join model b on b.id = p.model_b
    union all
    select
        'distance', null, null, a.content_hash, b.content_hash, null, d.l0, d.l1, d.l2, null, null,
        null, null, null, null, null
    from shard_distance d
    join tensor a on a.id = d.tensor_a
    join tensor b on b.id = d.tensor_b
    union all
    select
        'linf', null, null, a.content_hash, b.content_hash, null, null, null, null, d.linf, null,
        null, null, null, null, null
    from shard_linf d
    join tensor a on a.id = d.tensor_a
    join tensor b on b.id = d.tensor_b
    union all
    select
        'cossim', null, null, a.content_hash, b.content_hash, d.rows, null, null, null, null,
        d.cossim, null, null, null, null, null
    from shard_cossim d
    join tensor a on a.id = d.tensor_a
    join tensor b on b.id = d.tensor_b
    union all
    select
        'rounding', null, null, a.content_hash, b.content_hash, null, null, null, null, null, null,
        d.measured, d.within, d.excess, d.basis, d.proving
    from shard_rounding d
    join tensor a on a.id = d.tensor_a
    join tensor b on b.id = d.tensor_b
) to $path (
    format parquet,
    compression zstd,
    kv_metadata {
        megasim_shard: $kind,
        format: $format_version,
        schema: $schema_version,
        job: $job,
        part: $part,
        parts: $parts,
        metrics: $metrics,
        versions: $versions
    }
);

-- name: begin_shard
-- Room for what a shard computes, beside a store that is only read: renames that it finds stand
-- before those of the store, and distances are kept until they are written to its file.
create or replace temp table renamed_key as select * from renamed_key;
create or replace temp table shard_distance (
    tensor_a integer, tensor_b integer, l0 bigint, l1 double, l2 double
);
create or replace temp table shard_linf (tensor_a integer, tensor_b integer, linf double);
create or replace temp table shard_cossim (
    tensor_a integer, tensor_b integer, rows bigint, cossim double
);
create or replace temp table shard_rounding (
    tensor_a integer, tensor_b integer, measured bigint, within bigint, excess double,
    basis varchar, proving bigint
);

-- name: keep_shard_distances
-- Distances as they come in.
insert into shard_distance (tensor_a, tensor_b, l0, l1, l2)
select tensor_a, tensor_b, l0, l1, l2 from batch;

-- name: keep_shard_linfs
-- Largest differences as they come in.
insert into shard_linf (tensor_a, tensor_b, linf) select tensor_a, tensor_b, linf from batch;

-- name: keep_shard_cossims
-- Cosine similarities as they come in.
insert into shard_cossim (tensor_a, tensor_b, rows, cossim)
select tensor_a, tensor_b, rows, cossim from batch;

-- name: keep_shard_roundings
-- How plain contents lie to the codes of quantised ones, as they come in.
insert into shard_rounding (tensor_a, tensor_b, measured, within, excess, basis, proving)
select tensor_a, tensor_b, measured, within, excess, basis, proving from batch;

-- name: shard_columns
-- The columns of the file of a shard.
select column_name, column_type from (describe select * from read_parquet($path)) order by all;

-- name: shard_models
-- The models of a shard of an ingest, in the order of their files among all of the job.
select
    m.id, m.name, m.file_model_id, m.path, m.bytes, m.mtime_ns, m.header_hash,
    m.fingerprint_version, f.place
from (select unnest(model) from read_parquet($path) where record = 'model') m
join (select unnest(file) from read_parquet($path) where record = 'file') f on f.path = m.path
order by f.place, m.id;

-- name: shard_faults
-- The first row of a shard of an ingest that cannot be one, with the reason.
select fault from (
    select case
        when not coalesce(
            len(m.name) between 1 and 4096
            and m.source = 'checkpoint'
            and len(m.path) between 1 and 65536
            and m.id > 0
        , false) then 'a model that cannot be'
    end as fault
    from (select unnest(model) from read_parquet($path) where record = 'model') m
    union all
    select case
        when not coalesce(
            regexp_full_match(t.content_hash, '[0-9a-f]{64}')
            and regexp_full_match(t.value_hash, '[0-9a-f]{32}')
            and regexp_full_match(t.fp16_hash, '[0-9a-f]{32}')
            and regexp_full_match(t.bf16_hash, '[0-9a-f]{32}')
        , false) then 'hashes that cannot be'
        when not coalesce(
            t.numel >= 0
            and least(t.zeros, t.nans, t.infs) >= 0
            and greatest(t.zeros, t.nans, t.infs) <= t.numel
            and t.is_constant is not null
            and list_contains($dtypes, t.dtype)
        , false) then 'counts that cannot be'
        when t.digest is distinct from tensor_digest(
            t.content_hash, t.value_hash, t.fp16_hash, t.bf16_hash, t.dtype, t.numel, t.l1, t.l2,
            t.linf, t.mean, t.std, t.kurtosis, t.zeros, t.nans, t.infs, t.is_constant
        ) then 'a fingerprint that was altered since it was made'
        when not coalesce(
            len(t.sketch) in (0, least(t.numel, $sketch_size * f.factor))
            and not list_contains(
                list_transform(t.sketch, lambda x: coalesce(not isfinite(x), true)), true)
        , false) then 'a sketch that cannot be'
    end
    from (select unnest(tensor) from read_parquet($path) where record = 'tensor') t
    asof left join length_factors f on t.numel >= f.elements
)
where fault is not null
limit 1;

-- name: add_shard_models
-- Models of a shard, under the ids and names of {batch}.
insert into model by name
select m.* replace (b.id as id, b.name as name, b.file_model_id as file_model_id)
from (select unnest(model) from read_parquet($path) where record = 'model') m
join batch b on b.old_id = m.id
order by b.id;

-- name: place_shard_contents
-- Which contents of a shard are needed, and under which id the store has each, or is to have it.
create or replace temp table shard_content as
select
    s.id as old_id,
    coalesce(t.id, $first + row_number() over (partition by t.id is null order by s.id) - 1)::integer
        as id,
    t.id is null as is_new,
    t.id is not null and t.fingerprint_version is distinct from s.fingerprint_version as is_renewed
from (
    select tensor.id, tensor.content_hash, tensor.fingerprint_version
    from read_parquet($path)
    where record = 'tensor'
) s
left join tensor t on t.content_hash = s.content_hash
where s.id in (
    select model_tensor.tensor_id
    from read_parquet($path)
    where record = 'model_tensor' and model_tensor.model_id in (select old_id from batch)
);

-- name: add_shard_contents
-- The contents of a shard that the store lacks.
insert into tensor by name
select s.* replace (c.id as id)
from (select unnest(tensor) from read_parquet($path) where record = 'tensor') s
join shard_content c on c.old_id = s.id
where c.is_new
order by c.id;

-- name: shard_renewals
-- Fingerprints of a shard whose contents the store has in another version.
select s.* exclude (id, fingerprint_version, digest), c.id, s.fingerprint_version as version
from (select unnest(tensor) from read_parquet($path) where record = 'tensor') s
join shard_content c on c.old_id = s.id
where c.is_renewed
order by c.id;

-- name: add_shard_profiles
-- Profiles of a shard that the store lacks.
insert into profile by name
select s.* replace (c.id as tensor_id)
from (select unnest(profile) from read_parquet($path) where record = 'profile') s
join shard_content c on c.old_id = s.tensor_id
where not exists (
    from profile p
    where p.tensor_id = c.id
        and octet_length(p.rows) is not distinct from octet_length(s.rows)
        and octet_length(p.columns) is not distinct from octet_length(s.columns)
)
order by c.id, octet_length(s.rows), octet_length(s.columns);

-- name: add_shard_model_tensors
-- What the models of a shard hold.
insert into model_tensor by name
select s.* replace (b.id as model_id, c.id as tensor_id)
from (select unnest(model_tensor) from read_parquet($path) where record = 'model_tensor') s
join batch b on b.old_id = s.model_id
join shard_content c on c.old_id = s.tensor_id
order by b.id, s.canonical_key;

-- name: add_shard_unread_keys
-- The keys of a shard whose tensors could not be read.
insert into unread_key by name
select s.* replace (b.id as model_id)
from (select unnest(unread_key) from read_parquet($path) where record = 'unread_key') s
join batch b on b.old_id = s.model_id
order by b.id, s.key;

-- name: add_shard_tied_keys
-- The keys of a shard that share the tensor of another key.
insert into tied_key by name
select s.* replace (b.id as model_id)
from (select unnest(tied_key) from read_parquet($path) where record = 'tied_key') s
join batch b on b.old_id = s.model_id
order by b.id, s.key;

-- name: add_shard_beside
-- What stands in the files of a shard beside their state dicts.
insert into beside by name
select s.* replace (b.id as model_id)
from (select unnest(beside) from read_parquet($path) where record = 'beside') s
join batch b on b.old_id = s.model_id
order by b.id, s.place;

-- name: add_shard_folded_sketches
-- The folded sketches of the models of a shard.
insert into folded_sketch by name
select s.* replace (b.id as model_id)
from (select unnest(folded_sketch) from read_parquet($path) where record = 'folded_sketch') s
join batch b on b.old_id = s.model_id
order by b.id, s.component;

-- name: altered_shard_models
-- Models of a shard that do not hold what they held when its file was written.
select m.name
from batch b
join model m on m.id = b.id
left join contents_digests c on c.model_id = m.id
where m.id between $first and $last and m.contents_digest is distinct from c.digest
order by m.name;

-- name: shard_job
-- The parts of a job that are in, and the ids that are kept for its models.
select part, parts, first_id, last_id from imported_shard where job = $job order by part;

-- name: add_shard_job
-- A part of a job is in.
insert into imported_shard (job, kind, part, parts, first_id, last_id)
select $job, $kind, $part, $parts, $first_id, $last_id
where not exists (from imported_shard where job = $job and part = $part);

-- name: shard_distances_told
-- The distances that a shard of a comparison tells of, by the contents of this store.
create or replace temp table told as
select
    s.record,
    -- both, or neither: the least of NULL and a number is the number
    if(a.id is null or b.id is null, null, least(a.id, b.id)) as tensor_a,
    if(a.id is null or b.id is null, null, greatest(a.id, b.id)) as tensor_b,
    s.rows, s.l0, s.l1, s.l2, s.linf, s.cossim, s.measured, s.within, s.excess,
    s.basis, s.proving, a.numel
from read_parquet($path) s
left join tensor a on a.content_hash = s.content_a
left join tensor b on b.content_hash = s.content_b
where s.record <> 'pair';

-- name: shard_distance_faults
-- How many distances a shard tells of, how many of them are of unknown contents, and why one of the
-- others cannot be. How values lie to the codes of quantised ones is no distance.
select
    count(*) filter (record <> 'rounding') as told,
    count(*) filter (record <> 'rounding' and tensor_a is null) as unknown,
    any_value(case
        when record not in ('distance', 'linf', 'cossim', 'rounding') then 'a row of an unknown kind'
        when tensor_a = tensor_b then 'a distance of a content to itself'
        when record = 'distance' and not coalesce(
            l0 between 1 and numel
            and l2 > 0 and isfinite(l1)
            and l2 <= l1 * (1 + 1e-6)
            and l1 <= sqrt(l0) * l2 * (1 + 1e-6)
        , false) then 'l0, l1 and l2 that cannot be of one difference'
        when record = 'linf' and not coalesce(linf > 0 and isfinite(linf), false)
            then 'a largest difference that cannot be'
        when record = 'cossim' and not coalesce(abs(cossim) <= 1 + 1e-6 and rows > 0, false)
            then 'a cosine that cannot be'
        when record = 'rounding' and not coalesce(
            within between 0 and measured and measured <= numel and excess >= 0
            and isfinite(excess) and (excess > 0) = (within < measured)
            and basis in ('', 'compensated') and proving between 0 and measured
            and (proving = 0 or basis <> '')
        , false) then 'values within half a step that cannot be'
    end) filter (tensor_a is not null) as fault
from told;

-- name: shard_contradictions
-- How many distances of a shard differ from those that the store has, by more than the order in
-- which they were added up.
select count(*)
from told s
left join tensor_distance d
    on s.record = 'distance' and d.tensor_a = s.tensor_a and d.tensor_b = s.tensor_b
left join tensor_linf x
    on s.record = 'linf' and x.tensor_a = s.tensor_a and x.tensor_b = s.tensor_b
left join tensor_cossim c
    on s.record = 'cossim' and c.tensor_a = s.tensor_a and c.tensor_b = s.tensor_b
    and c.rows = s.rows
left join tensor_rounding r
    on s.record = 'rounding' and r.tensor_a = s.tensor_a and r.tensor_b = s.tensor_b
where d.l0 <> s.l0
    or r.measured <> s.measured
    or r.within <> s.within
    -- a shard does not look for factors of inputs
    or r.basis <> 'scaled' and r.basis <> s.basis
    or abs(d.l1 - s.l1) > 1e-6 * d.l1
    or abs(d.l2 - s.l2) > 1e-6 * d.l2
    or abs(x.linf - s.linf) > 1e-6 * x.linf
    or abs(c.cossim - s.cossim) > 1e-6;

-- name: add_told_distances
-- The distances of a shard that the store lacks.
insert into tensor_distance (tensor_a, tensor_b, l0, l1, l2, metric_version)
select distinct on (s.tensor_a, s.tensor_b)
    s.tensor_a, s.tensor_b, s.l0, s.l1, s.l2, current_metric()
from told s
anti join tensor_distance d on d.tensor_a = s.tensor_a and d.tensor_b = s.tensor_b
where s.record = 'distance' and s.tensor_a is not null
order by s.tensor_a, s.tensor_b, s.l1;
insert into tensor_linf (tensor_a, tensor_b, linf, metric_version)
select distinct on (s.tensor_a, s.tensor_b) s.tensor_a, s.tensor_b, s.linf, current_metric()
from told s
anti join tensor_linf x on x.tensor_a = s.tensor_a and x.tensor_b = s.tensor_b
where s.record = 'linf' and s.tensor_a is not null
order by s.tensor_a, s.tensor_b, s.linf;
insert into tensor_cossim (tensor_a, tensor_b, rows, cossim, metric_version)
select distinct on (s.tensor_a, s.tensor_b, s.rows)
    s.tensor_a, s.tensor_b, s.rows, s.cossim, current_metric()
from told s
anti join tensor_cossim c
    on c.tensor_a = s.tensor_a and c.tensor_b = s.tensor_b and c.rows = s.rows
where s.record = 'cossim' and s.tensor_a is not null
order by s.tensor_a, s.tensor_b, s.rows, s.cossim;
insert into tensor_rounding (
    tensor_a, tensor_b, measured, within, excess, basis, proving, metric_version
)
select distinct on (s.tensor_a, s.tensor_b)
    s.tensor_a, s.tensor_b, s.measured, s.within, s.excess, s.basis, s.proving, current_metric()
from told s
anti join tensor_rounding r on r.tensor_a = s.tensor_a and r.tensor_b = s.tensor_b
where s.record = 'rounding' and s.tensor_a is not null
order by s.tensor_a, s.tensor_b, s.within;

-- name: count_distances
-- How many distances of pairs of contents the store has, in all metrics.
select
    (select count(*) from tensor_distance)
    + (select count(*) from tensor_linf)
    + (select count(*) from tensor_cossim);

-- name: shard_pairs
-- The pairs of models that the shards of a comparison are for, by their names.
select model_a, model_b from read_parquet($path) where record = 'pair' order by all;

-- name: renamed_links
-- The keys that renames of some pairs bring together.
select distinct r.key_a, r.key_b
from renamed_key r
join batch b on b.model_a = r.model_a and b.model_b = r.model_b
order by all;
