-- Rows of older versions: told, hidden from who reads, dropped by who writes. {store} is the name of
-- the database, quoted: before each table stands a temporary view of the same name.

-- name: name_of_store
-- What the database of the connection is called.
select current_database();

-- name: has_other_versions
-- Whether anything at all is of another version: a tenth of the cost of rows_of_other_versions.
select coalesce(bool_or(found), false)
from (
    select count(*) > 0 as found from model
    where (source <> 'imported' and not is_comparable(fingerprint_version))
        or fingerprint_version > current_fingerprint()
    union all
    select count(*) > 0 from tensor_distance where metric_version <> current_metric()
    union all
    select count(*) > 0 from model_pair
    where (done and metric_version is distinct from current_metric())
        or metric_version > current_metric()
        or rename_version is distinct from current_rename()
    union all
    select count(*) > 0 from component_distance
    where source = 'estimated' and not is_comparable(version)
);

-- name: models_by_tier
-- Models that were not read in full: how many of each tier, and the first of them.
select tier, count(*), list(name order by id)[1:3]
from model
where tier in ('header', 'sample')
group by tier
order by tier;

-- name: rows_of_other_versions
-- Models, distances and pairs of older versions or marked as wrong; whether any are of newer ones.
select
    (
        select count(*) from model
        where source <> 'imported' and not is_comparable(fingerprint_version)
    ) as models,
    (
        select coalesce(list(name order by id)[1:3], []) from model
        where source <> 'imported' and not is_comparable(fingerprint_version)
    ) as names,
    (select count(*) from tensor_distance where metric_version <> current_metric()) as distances,
    (
        select count(*) from model_pair
        where done and metric_version is distinct from current_metric()
    ) as pairs,
    (
        select count(*) from model_pair where rename_version is distinct from current_rename()
    ) as renames,
    (
        select count(*) from component_distance
        where source = 'estimated' and not is_comparable(version)
    ) as estimates,
    coalesce((select max(fingerprint_version) from model) > current_fingerprint(), false)
        or coalesce((select max(metric_version) from tensor_distance) > current_metric(), false)
        or coalesce((select max(metric_version) from model_pair) > current_metric(), false)
        or coalesce((select max(rename_version) from model_pair) > current_rename(), false)
        as has_newer;

-- name: hide_old_model_tensor
-- What models of this version hold.
create or replace temp view model_tensor as
select *
from {store}.main.model_tensor
where model_id in (
    select id from {store}.main.model where is_comparable(fingerprint_version)
);

-- name: hide_old_tensor_distance
-- Distances of this version.
create or replace temp view tensor_distance as
select * from {store}.main.tensor_distance where metric_version = current_metric();

-- name: hide_old_tensor_linf
-- Largest differences of this version.
create or replace temp view tensor_linf as
select * from {store}.main.tensor_linf where metric_version = current_metric();

-- name: hide_old_tensor_cossim
-- Cosine similarities of this version.
create or replace temp view tensor_cossim as
select * from {store}.main.tensor_cossim where metric_version = current_metric();

-- name: hide_old_tensor_rounding
-- Roundings of this version.
create or replace temp view tensor_rounding as
select * from {store}.main.tensor_rounding where metric_version = current_metric();

-- name: hide_old_model_pair
-- Pairs of models of this version; those that were done by an older one are not done.
create or replace temp view model_pair as
select * replace (
    done and metric_version = current_metric() as done
)
from {store}.main.model_pair
where model_a in (
        select id from {store}.main.model where is_comparable(fingerprint_version)
    )
    and model_b in (
        select id from {store}.main.model where is_comparable(fingerprint_version)
    );

-- name: hide_old_component_distance
-- Sums and estimates of this version, and what others published.
create or replace temp view component_distance as
select c.*
from {store}.main.component_distance c
where c.source = 'imported'
    or (
        case c.source
            when 'exact' then c.version = current_metric() and exists (
                from model_pair p
                where p.model_a = c.model_a and p.model_b = c.model_b and p.done
            )
            else is_comparable(c.version)
        end
        and c.model_a in (
            select id from {store}.main.model where is_comparable(fingerprint_version)
        )
        and c.model_b in (
            select id from {store}.main.model where is_comparable(fingerprint_version)
        )
    );

-- name: reopen_old_pairs
-- Renames of pairs of readable models, sought by an older search, are sought again. The distances of
-- their contents stay.
create or replace temp table old_pair as
select model_a, model_b
from model_pair
where rename_version is distinct from current_rename()
    and model_a in (select model_id from readable)
    and model_b in (select model_id from readable);
delete from rename r using old_pair p where p.model_a = r.model_a and p.model_b = r.model_b;
delete from renamed_key r using old_pair p where p.model_a = r.model_a and p.model_b = r.model_b;
delete from model_pair r using old_pair p where p.model_a = r.model_a and p.model_b = r.model_b;

-- name: drop_old_rows
-- What is of no use to this version and can be computed again; pairs of old models are open again.
delete from tensor_distance where metric_version <> current_metric();
delete from tensor_linf where metric_version is distinct from current_metric();
delete from tensor_cossim where metric_version is distinct from current_metric();
delete from tensor_rounding where metric_version <> current_metric();
create or replace temp table old_model as
select id from model
where source <> 'imported' and not is_comparable(fingerprint_version);
update model_pair
set done = false, linf = false, cossim = false
where metric_version is distinct from current_metric()
    or model_a in (from old_model)
    or model_b in (from old_model);
delete from sampled_distance d
using model_pair p
where p.model_a = d.model_a and p.model_b = d.model_b and not p.done;
delete from component_distance c
where c.source = 'exact'
    and not exists (
        from model_pair p where p.model_a = c.model_a and p.model_b = c.model_b and p.done
    );
delete from component_distance c
where c.source = 'estimated'
    and (not is_comparable(c.version)
        or c.model_a in (from old_model)
        or c.model_b in (from old_model));
