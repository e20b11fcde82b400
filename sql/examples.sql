-- Questions that people ask. `megasim sql --examples` lists them, `megasim sql --example NAME`
-- runs one; copy one and change the names in it to ask your own.

-- name: most_changed_layers
-- Which layers differ most between any two models, for their size?
select
    model_a, model_b, canonical_key, role, block,
    round(l2, 4) as l2,
    round(l2 / sqrt(numel), 6) as rms_change
from layer_distances
where status not in ('identical', 'same_values') and l2 is not null and component = 'unet'
order by rms_change desc, model_a, model_b, canonical_key
limit 20;

-- name: shared_vae
-- Which models share the same VAE, once rounded to fp16? As `findings --groups` counts them.
with held as (
    select model, md5(string_agg(canonical_key || fp16_hash, chr(10) order by canonical_key)) as vae
    from layers
    where component in ('vae_encoder', 'vae_decoder', 'vae_quant')
    group by model
)
select count(*) as models, list(model order by model) as who, vae[:12] as fingerprint
from held
group by vae
order by models desc, who;

-- name: shared_text_encoder
-- Which models share the same text encoder, once rounded to fp16? Keys that are never used count.
with held as (
    select model, md5(string_agg(canonical_key || fp16_hash, chr(10) order by canonical_key)) as te
    from layers
    where component like 'text_encoder%'
    group by model
)
select count(*) as models, list(model order by model) as who, te[:12] as fingerprint
from held
group by te
order by models desc, who;

-- name: new_in_b
-- What does the second model of each pair have that the first has not?
select model_a, model_b, component, count(*) as new_keys, min(key_b) as first_key
from layer_distances
where status = 'missing_a'
group by model_a, model_b, component
order by new_keys desc, model_a, model_b, component
limit 20;

-- name: broken_layers
-- Which layers hold NaN or infinity?
select model, key, dtype, nans, infs, numel
from layers
where nans + infs > 0
order by nans + infs desc, model, key;

-- name: unchanged_components
-- Which components are the same in which pairs?
select model_a, model_b, component, keys_compared, identical, same_values, same_at_fp16
from component_distances
where keys_compared > 0
    and identical + same_values + same_at_fp16 = keys_compared
    and coverage = 1
order by model_a, model_b, component
limit 50;

-- name: closest_models
-- For each model, which other has the nearest UNet?
with both_ways as (
    select model_a as model, model_b as other, l2, source, keys_compared
    from component_distances
    where component = 'unet' and l2 is not null
    union all
    select model_b, model_a, l2, source, keys_compared
    from component_distances
    where component = 'unet' and l2 is not null
)
select model, other as nearest, round(l2, 4) as l2, source, keys_compared
from both_ways
qualify row_number() over (partition by model order by l2, other) = 1
order by l2, model;

-- name: change_by_block
-- Where in the UNet is the change of each pair?
select
    model_a, model_b, block,
    count(*) as keys,
    round(sqrt(sum(l2 * l2)), 4) as l2
from layer_distances
where component = 'unet' and l2 > 0
group by model_a, model_b, block
order by model_a, model_b, block
limit 50;

-- name: change_by_role
-- Is it attention that changed, or the rest?
select
    model_a, model_b,
    case when role in ('attn1', 'attn2') then role else 'others' end as part,
    count(*) as keys,
    round(sqrt(sum(l2 * l2)), 4) as l2
from layer_distances
where component = 'unet' and l2 is not null
group by all
order by model_a, model_b, part
limit 50;

-- name: rounded_copies
-- Which pairs are the same weights in another precision?
select
    model_a, model_b, component,
    same_values + same_at_fp16 + same_at_bf16 as rounded,
    keys_compared
from component_distances
where keys_compared > 0
    and changed = 0
    and same_values + same_at_fp16 + same_at_bf16 > 0
order by model_a, model_b, component
limit 50;

-- name: renamed_keys
-- Which keys stand under another name in the other model?
select model_a, model_b, component, count(*) as keys, min(key_a) as from_key, min(key_b) as to_key
from layer_distances
where key_a <> key_b
group by model_a, model_b, component
order by keys desc, model_a, model_b, component
limit 20;

-- name: outlier_layers
-- Which tensors have the heaviest tails, and who holds them? A sign of long training or a defect.
select
    min(canonical_key) as canonical_key,
    round(any_value(kurtosis), 2) as kurtosis,
    round(any_value(linf), 4) as linf,
    any_value(numel) as numel,
    count(distinct model) as models,
    min(model) as first_model
from layers
where numel >= 1024 and kurtosis is not null
group by content_hash
order by kurtosis desc, canonical_key, first_model
limit 20;

-- name: disk_by_component
-- How much of the files is which component, and how much of it is there twice?
select
    component,
    count(*) as tensors,
    count(distinct content_hash) as contents,
    sum(numel)::bigint as parameters,
    round(1 - count(distinct content_hash) / count(*), 3) as repeated
from layers
group by component
order by parameters desc, component;

-- name: columns
-- What do the views hold, and what does each column mean?
select table_name as view, column_name as column, data_type as type, comment
from duckdb_columns()
where table_name in ('models', 'layers', 'layer_distances', 'component_distances')
order by view, column_index;

-- name: recipe
-- Which UNets are a weighted sum of two others? The inner products behind `megasim recipe`.
with squared as (
    select model_a as model, model_b as other, l2 * l2 as d2
    from component_distances
    where component = 'unet' and l2 is not null
    union all
    select model_b, model_a, l2 * l2
    from component_distances
    where component = 'unet' and l2 is not null
),
near as (
    select model, other, d2
    from squared
    where d2 > 0
    qualify row_number() over (partition by model order by d2, other) <= 60
),
products as (
    -- <m - a, b - a> = (D(m,a) + D(a,b) - D(m,b)) / 2, and <b - a, b - a> = D(a,b), D squared
    select
        m.model, m.other as a, n.other as b, m.d2 as ma, n.d2 as mb, ab.d2 as ab,
        (m.d2 + ab.d2 - n.d2) / 2 as toward
    from near m
    join near n on n.model = m.model and n.other > m.other
    join squared ab on ab.model = m.other and ab.other = n.other and ab.d2 > 0
),
weights as (
    select
        model, a, b, toward, ab,
        1 - toward / ab as weight_a,
        toward / ab as weight_b,
        greatest(ma - toward * toward / ab, 0) / least(ma, mb) as unexplained
    from products
)
select
    model, a, b, round(toward, 4) as toward, round(ab, 4) as ab,
    round(weight_a, 4) as weight_a, round(weight_b, 4) as weight_b,
    round(unexplained, 6) as unexplained
from weights
where unexplained < 0.02 and weight_a between 0.02 and 0.98
-- every point of a line of merges explains its neighbours: the farthest two are its ends
qualify row_number() over (partition by model order by round(ab, 6) desc, a, b) = 1
order by model;
