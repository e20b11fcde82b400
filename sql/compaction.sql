-- What it takes to rewrite a store without unused space, and to drop what no model holds.
-- `old` is the store that is read, `new` the one that is written. `copy_…` copies a run of rows of
-- {table} in their order; which statement copies which table is in `store/compaction.py`.

-- name: attach_old
-- The store to be copied.
attach $path as old (read_only);

-- name: attach_new
-- The store that it is copied to.
attach $path as new;

-- name: detach_new
-- All that was copied goes into the file itself, which is then let go of.
checkpoint new;
detach new;

-- name: strange_objects
-- What people put into the old store beside what megasim makes: tables, views, macros, sequences.
with object as (
    select database_name, 'table ' || table_name as name
    from duckdb_tables() where not internal and not temporary
    union all
    select database_name, 'view ' || view_name
    from duckdb_views() where not internal and not temporary
    union all
    select database_name, 'macro ' || function_name
    from duckdb_functions() where not internal and function_type like '%macro'
    union all
    select database_name, 'sequence ' || sequence_name from duckdb_sequences() where not temporary
)
select distinct o.name
from object o
anti join object n on n.name = o.name and n.database_name = 'new'
where o.database_name = 'old'
order by o.name;

-- name: rows_to_copy
-- How many rows a table of the old store has, and one more than the last place of any.
select count(*), coalesce(max(rowid), -1) + 1 from old.{table};

-- name: store_bytes
-- The bytes of the store: in use, and free within the file.
select
    coalesce(sum(used_blocks * block_size), 0)::bigint,
    coalesce(sum(free_blocks * block_size), 0)::bigint
from pragma_database_size()
where database_name = current_database();

-- name: copy_all
-- All rows of a table that lose nothing by what no model holds.
insert into new.{table} by name
select * from old.{table} where rowid between $first and $last order by rowid;

-- name: copy_contents
-- Rows of contents that some model holds.
insert into new.{table} by name
select x.*
from old.{table} x
where x.rowid between $first and $last and x.id in (select tensor_id from old.model_tensor)
order by x.rowid;

-- name: copy_rows_of_contents
-- Rows that belong to contents that some model holds.
insert into new.{table} by name
select x.*
from old.{table} x
where x.rowid between $first and $last and x.tensor_id in (select tensor_id from old.model_tensor)
order by x.rowid;

-- name: copy_pairs_of_contents
-- Rows of pairs of contents that models hold.
insert into new.{table} by name
select x.*
from old.{table} x
where x.rowid between $first and $last
    and x.tensor_a in (select tensor_id from old.model_tensor)
    and x.tensor_b in (select tensor_id from old.model_tensor)
order by x.rowid;

-- name: copy_rows_of_models
-- Rows that belong to models.
insert into new.{table} by name
select x.*
from old.{table} x
where x.rowid between $first and $last and x.model_id in (select id from old.model)
order by x.rowid;

-- name: copy_pairs_of_models
-- Rows of pairs of models.
insert into new.{table} by name
select x.*
from old.{table} x
where x.rowid between $first and $last
    and x.model_a in (select id from old.model)
    and x.model_b in (select id from old.model)
order by x.rowid;

-- name: drop_unheld_tensors
-- Contents that no model holds any more.
delete from tensor t where t.id not in (select tensor_id from model_tensor);

-- name: drop_unheld_profiles
-- Profiles of contents that are not in the store any more.
delete from profile p where p.tensor_id not in (select id from tensor);

-- name: drop_unheld_distances
-- Distances of contents that are not in the store any more.
delete from tensor_distance d
where d.tensor_a not in (select id from tensor) or d.tensor_b not in (select id from tensor);
delete from tensor_linf d
where d.tensor_a not in (select id from tensor) or d.tensor_b not in (select id from tensor);
delete from profile where tensor_id not in (select id from tensor);
delete from tensor_cossim d
where d.tensor_a not in (select id from tensor) or d.tensor_b not in (select id from tensor);
delete from tensor_rounding d
where d.tensor_a not in (select id from tensor) or d.tensor_b not in (select id from tensor);

-- name: share_held_alone
-- What part of the store some models hold alone, between 0 and 1, by the bytes of its larger rows
-- before they are packed: an estimate of what forgetting them frees.
with gone as (
    select mt.tensor_id as id
    from model_tensor mt
    group by mt.tensor_id
    having bool_and(mt.model_id in (select model_id from batch))
),
part as (
    select
        sum(200 + 4 * len(t.sketch))                                        as total,
        sum(200 + 4 * len(t.sketch)) filter (t.id in (select id from gone)) as freed
    from tensor t
    union all
    select
        24 * count(*),
        24 * count(*) filter (d.tensor_a in (select id from gone) or d.tensor_b in (select id from gone))
    from tensor_distance d
    union all
    select
        60 * count(*),
        60 * count(*) filter (mt.model_id in (select model_id from batch))
    from model_tensor mt
    union all
    select
        90 * count(*),
        90 * count(*) filter (
            c.model_a in (select model_id from batch) or c.model_b in (select model_id from batch)
        )
    from component_distance c
)
select coalesce(sum(freed) / nullif(sum(total), 0), 0)::double from part;
