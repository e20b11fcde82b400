-- Registries of files that people know: written, and looked up.

-- name: write_known_files
-- Names and hashes of files, by the hash of the file, so that few row groups are read for an answer.
copy (
    select
        name::varchar as name, bytes::bigint as bytes, sha256::varchar as sha256,
        autov2::varchar as autov2, autov3::varchar as autov3,
        data_sha256::varchar as data_sha256, tensors_digest::varchar as tensors_digest,
        tensors::bigint as tensors
    from batch
    order by sha256, tensors_digest, name
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
