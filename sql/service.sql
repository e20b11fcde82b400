-- What the service asks beside what the answers ask.

-- name: service_models
-- The models whose name, family, variant or format holds $search, whatever its case.
select
    name, source, family, variant, format, part_role, components, dtypes, keys, parameters, unread,
    bytes, path, tier
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

-- name: keep_all_types
-- Rows for a client of megasim keep types that Arrow has no own for.
set session arrow_lossless_conversion = true;

-- name: nothing
-- The answer to what has no rows.
select 1 as done where false;

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

-- name: add_job
-- A job is asked for; jobs are done in the order of their ids.
insert into job
select
    coalesce(max(id), 0) + 1, $kind, $arguments, 'waiting', 0, get_current_timestamp()::timestamp,
    null, null, null, null, null
from job
returning id;

-- name: jobs
-- The jobs, the newest first.
select * from job order by id desc limit $most;

-- name: job
-- One job, by its id.
select * from job where id = $id;

-- name: forget_old_jobs
-- Jobs that were over $days days ago, and of those that are over all but the newest $most. The
-- newest of all stays, so that no number is given twice.
delete from job
where
    state in ('done', 'failed', 'cancelled', 'interrupted')
    and id < (select max(id) from job)
    and (
        ended_at < get_current_timestamp()::timestamp - to_days($days)
        or id not in (
            select id
            from job
            where state in ('done', 'failed', 'cancelled', 'interrupted')
            order by id desc
            limit $most
        )
    )
returning id;

-- name: next_job
-- The job that has waited longest.
select * from job where state = 'waiting' order by id limit 1;

-- name: begin_job
-- A job begins, for the first time or once more.
update job
set state = 'running', attempts = attempts + 1, began_at = get_current_timestamp()::timestamp
where id = $id;

-- name: end_job
-- A job is over: what became of it.
update job
set state = $state, ended_at = get_current_timestamp()::timestamp,
    result = $result, error = $error, remedy = $remedy
where id = $id;

-- name: wait_again
-- A job goes on when the service starts again: what it has saved is known to it.
update job set state = 'waiting' where id = $id;

-- name: cancel_waiting
-- A job that has not begun is not to begin.
update job
set state = 'cancelled', ended_at = get_current_timestamp()::timestamp
where id = $id and state = 'waiting';

-- name: left_running
-- Jobs in whose middle the service ended.
select id, attempts from job where state = 'running' order by id;

-- name: jobs_of_states
-- How many jobs there are of each state.
select state, count(*) from job group by state order by state;

-- name: models_of_file
-- The models whose file has this identity: its header, its size and 16 samples of its bytes.
select name from model where header_hash = $identity order by name;

-- name: holders_of_contents
-- How many of some contents each component of each model holds. What many unrelated models hold
-- alike, constants and small tensors, is no evidence and is left out on both sides.
with asked as (
    select distinct unnest($contents) as content_hash
),
telling as (
    select model, component, content_hash
    from layers
    where numel >= 64 and not is_constant
)
select
    t.model,
    t.component,
    count(*) filter (where a.content_hash is not null) as held,
    count(*) as keys
from telling t
left join asked a on a.content_hash = t.content_hash
group by t.model, t.component
having held > 0
order by held / keys desc, held desc, t.model, t.component;

-- name: known_contents
-- How many of some contents any model holds.
with asked as (
    select distinct unnest($contents) as content_hash
)
select count(*)
from asked a
where a.content_hash in (select content_hash from layers);
