-- What the pages of the service show beside their tables and pictures. As in report.sql, the queries
-- ask the public views alone, and what is marked by a dollar sign is filled in before they are shown.

-- name: page_sizes
-- What the tensors of each model take on disk, and how much of it other models hold too. Only
-- tensors that are stored plainly count, so that an element has the size that its dtype says.
with held as (
    select
        model,
        content_hash,
        numel * coalesce(try_cast(regexp_extract(dtype, '\d+') as integer), 8) // 8 as bytes,
        count(*) over (partition by content_hash) as copies,
        count(distinct model) over (partition by content_hash) as holders
    from layers
    where representation is null or representation = 'plain'
)
select
    model,
    sum(bytes)::bigint as bytes,
    coalesce(sum(bytes) filter (where holders > 1), 0)::bigint as shared_bytes,
    sum(bytes / copies)::double as share_of_distinct
from held
group by model
order by model;

-- name: page_stored_as
-- How the values of each model are stored: the dtype, or the scheme where they are decoded.
select
    model,
    list(
        distinct case when coalesce(representation, 'plain') = 'plain' then dtype else representation end
    ) as stored_as
from layers
group by model
order by model;

-- name: page_model_components
-- What each component of a model holds.
select
    component,
    count(*) as keys,
    sum(numel)::bigint as parameters,
    string_agg(
        distinct case when coalesce(representation, 'plain') = 'plain' then dtype else representation end,
        ', '
    ) as stored_as,
    sqrt(sum(l2 * l2 order by key)) as l2,
    coalesce(sum(nans + infs), 0)::bigint as not_finite
from layers
where model = $model
group by component
order by parameters desc, component;

-- name: page_model_pairs
-- How far a model is from each other over a component, the nearest first.
select
    case when model_a = $model then model_b else model_a end as other,
    component,
    l2,
    l2_error,
    source,
    keys_compared,
    changed,
    coverage
from component_distances
where $model in (model_a, model_b) and component in ($components)
order by l2 nulls last, other, component;

-- name: page_pair_components
-- What was compared between two models, component by component.
select
    component, source, keys_compared, identical, same_values, same_at_fp16, same_at_bf16, changed,
    missing_a, missing_b, shape_mismatch, non_finite, l2, l2_error, coverage
from component_distances
where model_a in ($path) and model_b in ($path)
order by component;

-- name: page_pair_layers
-- Each layer of two models with its distance, the largest first.
select
    canonical_key, component, block, role, nature, status, numel, l0, l1, l2, key_a, key_b, source
from layer_distances
where model_a in ($path) and model_b in ($path) and component in ($components)
order by l2 desc nulls last, canonical_key;
