-- The queries that a report shows beside its figures and tables. They ask the public views alone,
-- so that a reader can run them with `megasim sql`. What is marked by a dollar sign is filled in
-- before they are shown: $models is a list of names, or all of them; $components a list;
-- $model a name; $path a list of names.

-- name: report_models
-- The models, by name.
select
    name, source, family, variant, layout, format, bytes, keys, parameters,
    array_to_string(dtypes, ' ') as dtypes, epoch, global_step
from models
where name in ($models)
order by name;

-- name: report_components
-- What was compared between the models, component by component.
select
    model_a, model_b, component, source, unproven, keys_compared, identical, same_values,
    same_at_fp16, same_at_bf16, changed, renamed, missing_a, missing_b, shape_mismatch,
    non_finite, l2, l2_error, coverage
from component_distances
where model_a in ($models) and model_b in ($models)
order by model_a, model_b, component;

-- name: report_components_of_one
-- What was compared between one model and the others, component by component.
select
    model_a, model_b, component, source, unproven, keys_compared, identical, same_values,
    same_at_fp16, same_at_bf16, changed, renamed, missing_a, missing_b, shape_mismatch,
    non_finite, l2, l2_error, coverage
from component_distances
where $model in (model_a, model_b) and model_a in ($models) and model_b in ($models)
order by model_a, model_b, component;

-- name: report_distances
-- The L2 distance of each pair over a component, and what it covers. Its parts add in squares.
select
    model_a,
    model_b,
    sqrt(sum(l2 * l2 order by component)) as distance,
    string_agg(distinct source, ' ' order by source) as sources,
    bool_or(unproven) as unproven,
    sqrt(sum(l2 * l2_error * l2 * l2_error order by component)) / nullif(distance, 0) as error,
    sum(keys_compared)::bigint as keys_compared,
    sum(keys_compared) / nullif(sum(
        keys_compared + missing_a + missing_b + shape_mismatch + non_finite), 0) as coverage
from component_distances
where component in ($components) and model_a in ($models) and model_b in ($models)
group by model_a, model_b
having distance is not null
    and not bool_or(coalesce(keys_compared, 0) > 0 and l2 is null)
order by model_a, model_b;

-- name: report_signatures
-- The components of each model; where a signature is equal, the component is the same.
select
    model,
    component,
    count(*) as keys,
    sum(numel)::bigint as parameters,
    md5(string_agg(canonical_key || content_hash, ' ' order by canonical_key)) as same_bytes,
    md5(string_agg(canonical_key || value_hash, ' ' order by canonical_key)) as same_values,
    md5(string_agg(canonical_key || fp16_hash, ' ' order by canonical_key)) as same_at_fp16,
    md5(string_agg(canonical_key || bf16_hash, ' ' order by canonical_key)) as same_at_bf16
from layers
where model in ($models)
group by model, component
order by component, model;

-- name: report_broken_layers
-- Layers with NaN or infinity, and layers that are all zero.
select model, component, key, dtype, numel, nans, infs, zeros
from layers
where model in ($models) and (nans + infs > 0 or (zeros = numel and numel > 1))
order by model, component, key;

-- name: report_layers
-- How far each layer of one model is from the same layer of the others.
select
    model_a, model_b, canonical_key, block, role, status, numel, l2,
    l2 / sqrt(numel) as rms_change
from (
    from layer_distances where model_a = $model
    union all
    from layer_distances where model_b = $model
)
where model_a in ($models)
    and model_b in ($models)
    and component in ($components)
    and status not in ('missing_a', 'missing_b')
order by model_a, model_b, canonical_key;

-- name: report_layer_sums
-- How far each part of one model is from the same part of the others: a part is what has one
-- role in one block.
select
    model_a,
    model_b,
    block,
    role,
    count(*) as keys,
    count(l2) as keys_with_distance,
    sum(numel) filter (l2 is not null) as numel,
    sqrt(sum(l2 * l2 order by canonical_key)) as l2,
    sqrt(sum(l2 * l2 order by canonical_key) / sum(numel) filter (l2 is not null)) as rms_change
from (
    from layer_distances where model_a = $model
    union all
    from layer_distances where model_b = $model
)
where model_a in ($models)
    and model_b in ($models)
    and component in ($components)
    and status not in ('missing_a', 'missing_b')
group by model_a, model_b, block, role
order by model_a, model_b, block, role;

-- name: report_chain_roles
-- The L2 distance of all pairs along a chain, for attn1, attn2 and the rest.
select
    model_a,
    model_b,
    case when role in ('attn1', 'attn2') then role else 'others' end as part,
    count(*) as keys,
    sqrt(sum(l2 * l2 order by canonical_key)) as distance
from layer_distances
where component in ($components)
    and model_a in ($path)
    and model_b in ($path)
    and l2 is not null
group by model_a, model_b, part
order by model_a, model_b, part;

-- name: report_chain
-- The L2 distance of all pairs along a chain over a component. Its parts add in squares.
select
    model_a,
    model_b,
    sqrt(sum(l2 * l2 order by component)) as distance,
    sum(keys_compared)::bigint as keys_compared
from component_distances
where component in ($components) and model_a in ($path) and model_b in ($path)
group by model_a, model_b
having distance is not null
order by model_a, model_b;

-- name: report_renames
-- Pairs in which some keys stand under another name.
select model_a, model_b, component, renamed, keys_compared
from component_distances
where renamed > 0 and model_a in ($models) and model_b in ($models)
order by renamed desc, model_a, model_b, component;
