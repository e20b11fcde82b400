-- What it takes to write a store anew at its true size, and to drop what no model holds.
-- `old` is the store that is read, `new` the one beside it. `copy_TABLE` copies a run of rows of
-- one table in their order; a test holds that there is one for every table of the schema.

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
    select database_name, 'table ' || table_name as told
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
select distinct o.told
from object o
anti join object n on n.told = o.told and n.database_name = 'new'
where o.database_name = 'old'
order by o.told;

-- name: old_tables
-- The tables of the old store: how many rows, and one more than the last place of any.
select 'model', count(*), coalesce(max(rowid), -1) + 1 from old.model
union all
select 'model_tensor', count(*), coalesce(max(rowid), -1) + 1 from old.model_tensor
union all
select 'tensor', count(*), coalesce(max(rowid), -1) + 1 from old.tensor
union all
select 'tensor_distance', count(*), coalesce(max(rowid), -1) + 1 from old.tensor_distance
union all
select 'tensor_linf', count(*), coalesce(max(rowid), -1) + 1 from old.tensor_linf
union all
select 'tensor_cossim', count(*), coalesce(max(rowid), -1) + 1 from old.tensor_cossim
union all
select 'model_pair', count(*), coalesce(max(rowid), -1) + 1 from old.model_pair
union all
select 'rename', count(*), coalesce(max(rowid), -1) + 1 from old.rename
union all
select 'renamed_key', count(*), coalesce(max(rowid), -1) + 1 from old.renamed_key
union all
select 'component_distance', count(*), coalesce(max(rowid), -1) + 1 from old.component_distance
union all
select 'imported_layer', count(*), coalesce(max(rowid), -1) + 1 from old.imported_layer
union all
select 'pair_group', count(*), coalesce(max(rowid), -1) + 1 from old.pair_group
union all
select 'unread_key', count(*), coalesce(max(rowid), -1) + 1 from old.unread_key
union all
select 'tied_key', count(*), coalesce(max(rowid), -1) + 1 from old.tied_key
union all
select 'beside', count(*), coalesce(max(rowid), -1) + 1 from old.beside
union all
select 'folded_sketch', count(*), coalesce(max(rowid), -1) + 1 from old.folded_sketch
union all
select 'profile', count(*), coalesce(max(rowid), -1) + 1 from old.profile
union all
select 'known_component', count(*), coalesce(max(rowid), -1) + 1 from old.known_component;

-- name: store_bytes
-- The bytes of the store: in use, and free within the file.
select
    coalesce(sum(used_blocks * block_size), 0)::bigint,
    coalesce(sum(free_blocks * block_size), 0)::bigint
from pragma_database_size()
where database_name = current_database();

-- name: copy_model
-- Models, all of them.
insert into new.model by name
select * from old.model where rowid between $first and $last order by rowid;

-- name: copy_model_tensor
-- What models hold, all of it.
insert into new.model_tensor by name
select * from old.model_tensor where rowid between $first and $last order by rowid;

-- name: copy_tensor
-- Contents that some model holds.
insert into new.tensor by name
select t.*
from old.tensor t
where t.rowid between $first and $last and t.id in (select tensor_id from old.model_tensor)
order by t.rowid;

-- name: copy_tensor_distance
-- Distances of contents that models hold.
insert into new.tensor_distance by name
select d.*
from old.tensor_distance d
where d.rowid between $first and $last
    and d.tensor_a in (select tensor_id from old.model_tensor)
    and d.tensor_b in (select tensor_id from old.model_tensor)
order by d.rowid;

-- name: copy_tensor_linf
-- Largest differences of contents that models hold.
insert into new.tensor_linf by name
select d.*
from old.tensor_linf d
where d.rowid between $first and $last
    and d.tensor_a in (select tensor_id from old.model_tensor)
    and d.tensor_b in (select tensor_id from old.model_tensor)
order by d.rowid;

-- name: copy_tensor_cossim
-- Cosine similarities of contents that models hold.
insert into new.tensor_cossim by name
select d.*
from old.tensor_cossim d
where d.rowid between $first and $last
    and d.tensor_a in (select tensor_id from old.model_tensor)
    and d.tensor_b in (select tensor_id from old.model_tensor)
order by d.rowid;

-- name: copy_model_pair
-- Pairs of models.
insert into new.model_pair by name
select p.*
from old.model_pair p
where p.rowid between $first and $last
    and p.model_a in (select id from old.model)
    and p.model_b in (select id from old.model)
order by p.rowid;

-- name: copy_rename
-- Renames of pairs of models.
insert into new.rename by name
select r.*
from old.rename r
where r.rowid between $first and $last
    and r.model_a in (select id from old.model)
    and r.model_b in (select id from old.model)
order by r.rowid;

-- name: copy_renamed_key
-- Renamed keys of pairs of models.
insert into new.renamed_key by name
select r.*
from old.renamed_key r
where r.rowid between $first and $last
    and r.model_a in (select id from old.model)
    and r.model_b in (select id from old.model)
order by r.rowid;

-- name: copy_component_distance
-- Sums of pairs of models.
insert into new.component_distance by name
select c.*
from old.component_distance c
where c.rowid between $first and $last
    and c.model_a in (select id from old.model)
    and c.model_b in (select id from old.model)
order by c.rowid;

-- name: copy_imported_layer
-- Published layers of pairs of models.
insert into new.imported_layer by name
select i.*
from old.imported_layer i
where i.rowid between $first and $last
    and i.model_a in (select id from old.model)
    and i.model_b in (select id from old.model)
order by i.rowid;

-- name: copy_pair_group
-- Groups of pairs of models.
insert into new.pair_group by name
select g.*
from old.pair_group g
where g.rowid between $first and $last
    and g.model_a in (select id from old.model)
    and g.model_b in (select id from old.model)
order by g.rowid;

-- name: copy_unread_key
-- Tensors of models of which no values could be read.
insert into new.unread_key by name
select x.*
from old.unread_key x
where x.rowid between $first and $last and x.model_id in (select id from old.model)
order by x.rowid;

-- name: copy_tied_key
-- Keys of models that share a tensor.
insert into new.tied_key by name
select x.*
from old.tied_key x
where x.rowid between $first and $last and x.model_id in (select id from old.model)
order by x.rowid;

-- name: copy_beside
-- What stands in the files of models beside their state dicts.
insert into new.beside by name
select x.*
from old.beside x
where x.rowid between $first and $last and x.model_id in (select id from old.model)
order by x.rowid;

-- name: copy_folded_sketch
-- Folded sketches of models.
insert into new.folded_sketch by name
select x.*
from old.folded_sketch x
where x.rowid between $first and $last and x.model_id in (select id from old.model)
order by x.rowid;

-- name: copy_profile
-- Profiles of contents that some model holds.
insert into new.profile by name
select x.*
from old.profile x
where x.rowid between $first and $last and x.tensor_id in (select tensor_id from old.model_tensor)
order by x.rowid;

-- name: copy_known_component
-- Names that the user gave to components, all of them.
insert into new.known_component by name
select * from old.known_component where rowid between $first and $last order by rowid;

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
