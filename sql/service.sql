-- What the service asks beside what the answers ask.

-- name: service_models
-- The models whose name, family, variant or format holds $search, whatever its case.
select
    name, source, family, variant, format, part_role, components, dtypes, keys, parameters, unread,
    bytes, path
from models
where contains(lower(concat_ws(' ', name, family, variant, format)), lower($search))
order by name;

-- name: parsed_query
-- The tree of a query, to look for what it may read. Anything but a select is an error in it.
select json_serialize_sql($query);

-- name: limit_query_memory
-- What one query may hold in memory; beyond that it uses the disk, or is refused.
set session operator_memory_limit = '{bytes}B';

-- name: see_no_variables
-- A name in a query is a table of the store, never a variable of the program around it.
set session python_enable_replacements = false;

-- name: limit_temporary_files
-- How much of the disk all queries together may use for what does not fit into memory.
set max_temp_directory_size = '{bytes}B';

-- name: allow_uploads
-- The one folder beside the store whose files may be read, by the jobs that import them.
set allowed_directories = [$folder];

-- name: forbid_files
-- From here on no other file is read or written, and no extension loaded.
set enable_external_access = false;

-- name: allow_query_limits
-- What each connection may still be told.
set allowed_configs = [
    'operator_memory_limit', 'python_enable_replacements', 'arrow_lossless_conversion'
];

-- name: lock_settings
-- From here on nothing else may be set.
set lock_configuration = true;
