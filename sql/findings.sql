-- The statements behind findings, relations, groups, health and fingerprint files.
-- A name in braces is a table that the caller registers for the time of one call.

-- name: finding_pairs
-- The pairs of which anything is known, in the order their models came.
select distinct model_a, model_b from component_distance order by model_a, model_b;

-- name: finding_components
-- What is known of the components of some pairs.
select
    c.model_a, c.model_b, c.component, c.source, c.unproven, c.keys_compared, c.l2, c.renamed,
    c.identical, c.same_values, c.same_at_fp16, c.same_at_bf16, c.changed,
    c.missing_a, c.missing_b, c.shape_mismatch, c.non_finite
from component_distance c
join batch b on b.model_a = c.model_a and b.model_b = c.model_b
order by c.model_a, c.model_b, c.component;

-- name: finding_layers
-- The keys of some components of one pair, with the shapes where they differ.
select
    l.component, l.canonical_key, l.key_a, l.key_b, l.block, l.status, l.l2,
    case when l.status = 'shape_mismatch' then a.canonical_shape end as shape_a,
    case when l.status = 'shape_mismatch' then b.canonical_shape end as shape_b
from layer_rows l
left join model_tensor a on a.model_id = $model_a and a.key = l.key_a
left join model_tensor b on b.model_id = $model_b and b.key = l.key_b
where l.model_a = $model_a and l.model_b = $model_b and list_contains($components, l.component)
order by l.component, l.canonical_key;

-- name: component_keys
-- Which keys each family has in each component, to ask which of them it never uses.
select distinct m.family, t.component, t.canonical_key
from model_tensor t
join model m on m.id = t.model_id
order by all;

-- name: component_facts
-- What each model has of each component, and signatures: equal for components that are equal in
-- the same dtype, by value, or once rounded; `used` ones without the keys that a family never
-- uses. Positions that are whole, 0, 1, 2 …, are made anew where they are missing, so they do not
-- count either. Infinities are no evidence of equal values: float16 ends at 65504.
with held as (
    select
        mt.model_id,
        mt.component,
        mt.canonical_key || ' ' || mt.canonical_shape || ' ' as place,
        t.dtype,
        t.numel,
        md5_number(place || t.content_hash) as bytes_at,
        md5_number(place || t.value_hash)   as values_at,
        md5_number(place || case when t.linf <= 65504 then t.fp16_hash else t.value_hash end)
            as fp16_at,
        md5_number(place || t.bf16_hash)    as bf16_at,
        case
            when u.canonical_key is not null then false
            when mt.canonical_key not like '%position_ids' then true
            else coalesce(t.sketch <> list_transform(range(t.numel), lambda x: x::float), true)
        end as used
    from model_tensor mt
    join tensor t on t.id = mt.tensor_id
    join model m on m.id = mt.model_id
    left join unused u
        on u.family = m.family
        and u.component = mt.component
        and u.canonical_key = mt.canonical_key
)
select
    model_id,
    component,
    count(*)                                         as keys,
    sum(numel)::bigint                               as parameters,
    coalesce(list(distinct dtype order by dtype)
        filter (dtype like '%float%'), [])           as dtypes,
    bit_xor(bytes_at)::varchar                       as same_bytes,
    bit_xor(values_at)::varchar                      as same_values,
    bit_xor(fp16_at)::varchar                        as same_at_fp16,
    bit_xor(bf16_at)::varchar                        as same_at_bf16,
    (bit_xor(values_at) filter (used))::varchar      as used_values,
    (bit_xor(fp16_at) filter (used))::varchar        as used_at_fp16,
    (bit_xor(bf16_at) filter (used))::varchar        as used_at_bf16
from held
group by model_id, component
order by model_id, component;

-- name: imported_rows
-- The published keys of some pairs.
select
    l.model_a, l.model_b, l.component, l.canonical_key, l.key_a, l.key_b, l.block, l.status, l.l2,
    null as shape_a, null as shape_b
from imported_layer l
join batch b on b.model_a = l.model_a and b.model_b = l.model_b
order by l.model_a, l.model_b, l.component, l.canonical_key;
