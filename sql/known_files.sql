-- Registries of files that people know: written, and looked up.

-- name: write_known_files
-- Names and hashes of files, a row for each hash: those of files, of data and of tensors apart, each
-- in the order of its hash and without the others. So whatever hash is sought, the statistics of all
-- row groups but one or two rule it out.
copy (
    with known as (
        select *, row_number() over (order by sha256, data_sha256, tensors_digest, name) as file
        from batch
    ),
    hashes as (
        select 1 as kind, file, sha256 as hash
        from known
        where sha256 is not null or (data_sha256 is null and tensors_digest is null)
        union all
        select 2, file, data_sha256 from known where data_sha256 is not null
        union all
        select 3, file, tensors_digest from known where tensors_digest is not null
    )
    select
        h.file::bigint as file, k.name::varchar as name, k.bytes::bigint as bytes,
        if(h.kind = 1, k.sha256, null)::varchar as sha256,
        if(h.kind = 1, k.autov2, null)::varchar as autov2,
        if(h.kind = 2, k.autov3, null)::varchar as autov3,
        if(h.kind = 2, k.data_sha256, null)::varchar as data_sha256,
        if(h.kind = 3, k.tensors_digest, null)::varchar as tensors_digest,
        k.tensors::bigint as tensors
    from hashes h
    join known k on k.file = h.file
    order by h.kind, h.hash, h.file
) to $path (
    format parquet,
    compression zstd,
    row_group_size 2048,
    kv_metadata {megasim_known_files: $format_version}
);

-- name: known_by_file
-- The known files that have the same bytes.
select b.place, k.name
from read_parquet($path) k
join batch b on b.hash = k.sha256
order by b.place, k.name;

-- name: known_by_data
-- The known files that have the same bytes behind their headers.
select b.place, k.name
from read_parquet($path) k
join batch b on b.hash = k.data_sha256
order by b.place, k.name;

-- name: known_by_tensors
-- The known files that have the same tensors under the same keys.
select b.place, k.name
from read_parquet($path) k
join batch b on b.hash = k.tensors_digest
order by b.place, k.name;
