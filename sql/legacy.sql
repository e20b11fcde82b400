-- The statements by which published distances of others come in and go out.
-- `batch` is a table that the caller registers for the time of one call.

-- name: components_of_pairs
-- What is known of some pairs, component by component.
select
    c.model_a, c.model_b, c.component, c.source, c.origin,
    c.keys_compared is not null as by_layer
from component_distance c
join batch b on b.model_a = c.model_a and b.model_b = c.model_b
order by c.model_a, c.model_b, c.component;

-- name: drop_imported_layers
-- What was published of a pair gives way to its newer form.
delete from imported_layer i
using batch b
where i.model_a = b.model_a and i.model_b = b.model_b;

-- name: drop_imported_components
-- Published sums of a pair give way to its layers.
delete from component_distance c
using batch b
where c.model_a = b.model_a and c.model_b = b.model_b and c.source = 'imported';

-- name: drop_estimated_components
-- An estimate gives way to a published distance.
delete from component_distance c
using batch b
where c.model_a = b.model_a
    and c.model_b = b.model_b
    and c.component = b.component
    and c.source = 'estimated';

-- name: drop_imported_values
-- What a file of matrices said of a pair gives way to its newer form.
delete from component_distance c
using batch b
where c.model_a = b.model_a
    and c.model_b = b.model_b
    and c.source = 'imported'
    and c.origin = $origin
    and c.keys_compared is null;

-- name: add_imported_layers
-- Published layer distances of a pair.
insert into imported_layer
select
    model_a, model_b, canonical_key, key_a, key_b, component, block, role, status, l2, origin,
    nature
from batch
order by canonical_key, status;

-- name: add_imported_components
-- Sum the published layers of pairs up, component by component.
insert into component_distance
select
    i.model_a,
    i.model_b,
    i.component,
    'imported',
    any_value(i.origin),
    false,
    count(*) filter (i.status in ('identical', 'changed')) as keys_compared,
    count(*) filter (i.status = 'identical'),
    0,
    0,
    0,
    count(*) filter (i.status = 'changed'),
    count(*) filter (i.key_a <> i.key_b),
    count(*) filter (i.status = 'missing_a'),
    count(*) filter (i.status = 'missing_b'),
    count(*) filter (i.status = 'shape_mismatch'),
    count(*) filter (i.status = 'non_finite'),
    null,
    null,
    sqrt(sum(i.l2 * i.l2 order by i.canonical_key) filter (is_measured(i.nature))),
    null,
    null,
    case when sum(i.l2) filter (is_measured(i.nature)) is not null then 0 end,
    keys_compared / count(*),
    count(*) filter (i.status in ('identical', 'changed') and is_measured(i.nature)),
    null,
    null,
    null
from imported_layer i
join batch b on b.model_a = i.model_a and b.model_b = i.model_b
group by i.model_a, i.model_b, i.component
order by i.model_a, i.model_b, i.component;

-- name: add_imported_values
-- Published distances of whole components, of which the keys are not known.
insert into component_distance by name
select
    model_a, model_b, component, 'imported' as source, $origin as origin, unproven, l2,
    case when l2 is not null then 0 end as l2_error
from batch
order by component, model_a, model_b;

-- name: pairs_with_layers
-- The pairs of which the layers are known.
select distinct model_a, model_b
from (
    select model_a, model_b from model_pair where done
    union all
    select model_a, model_b from imported_layer
)
order by model_a, model_b;

-- name: layers_of_pair
-- What is known of the layers of one pair; what was computed here goes before what was published.
select key_a, key_b, canonical_key, component, role, status, l2
from layer_rows
where model_a = $model_a and model_b = $model_b
qualify source = min(source) over ()
order by canonical_key, status;
