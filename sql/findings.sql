-- The statements behind findings, relations, groups, health and fingerprint files.
-- A name in braces is a table that the caller registers for the time of one call.

-- name: finding_pairs
-- The pairs of which anything is known, in the order their models came; none of a damaged model.
select distinct model_a, model_b
from component_distance
where model_a not in (from keyless_models) and model_b not in (from keyless_models)
order by model_a, model_b;

-- name: finding_components
-- What is known of the components of some pairs.
select
    c.model_a, c.model_b, c.component,
    proven_source(c.source, c.keys_compared, c.identical, c.same_values) as source, c.unproven, c.keys_compared, c.l2, c.l2_error,
    c.renamed, c.keys_measured,
    c.identical, c.same_values, c.same_at_fp16, c.same_at_bf16, c.changed,
    c.missing_a, c.missing_b, c.shape_mismatch, c.non_finite, c.same_in_sample, c.keys_unread
from component_distance c
join batch b on b.model_a = c.model_a and b.model_b = c.model_b
order by c.model_a, c.model_b, c.component;

-- name: same_in_samples
-- Of the keys of some pairs that are equal in all elements that were read: how many these are, how
-- many their tensors have, and in how many blocks they lie.
select
    d.model_a, d.model_b, h.component, sum(d.sampled)::bigint, sum(h.numel)::bigint,
    sum(d.blocks)::bigint
from sampled_distance d
join batch b on b.model_a = d.model_a and b.model_b = d.model_b
join held_keys h on h.model_id = d.model_a and h.canonical_key = d.canonical_key
where d.status = 'same_in_sample'
group by d.model_a, d.model_b, h.component
order by d.model_a, d.model_b, h.component;

-- name: finding_layers
-- The keys of some components of one pair, with the shapes where they differ.
select
    l.component, l.canonical_key, l.key_a, l.key_b, l.block, l.role, l.status, l.l2,
    case when l.status = 'shape_mismatch' then a.canonical_shape end as shape_a,
    case when l.status = 'shape_mismatch' then b.canonical_shape end as shape_b,
    l.nature
from layer_rows l
left join model_tensor a on a.model_id = $model_a and a.key = l.key_a
left join model_tensor b on b.model_id = $model_b and b.key = l.key_b
where l.model_a = $model_a and l.model_b = $model_b and list_contains($components, l.component)
order by l.component, l.canonical_key;

-- name: coded_models
-- The models that hold quantised tensors. Of contents there may be millions: only those of float8
-- are looked for among the keys.
select model_id
from model_tensor
where is_measured(nature) and representation not in ('plain', 'weight_norm')
union
select mt.model_id
from tensor t
join model_tensor mt on mt.tensor_id = t.id
where t.dtype like 'float8%' and is_measured(mt.nature);

-- name: pair_roundings
-- Of pairs of models (batch) of which one holds quantised tensors where the other holds plain ones:
-- by component, how these lie to the codes, and what else differs. Scalars, indices and the like are
-- no part of it. Lists of ids reach the tables below the views, which a join does not; and of what is
-- known exactly the distances are not asked for.
with aligned as materialized (
    select model_a, model_b, component, status, key_a, key_b, nature
    from judged_layers
    where done
        and list_contains($firsts, model_a)
        and list_contains($seconds, model_b)
        and (model_a, model_b) in (select model_a, model_b from batch)
        and is_measured(nature)
    union all
    select model_a, model_b, component, status, key_a, key_b, nature
    from layer_rows
    where source <> 'exact'
        and list_contains($firsts, model_a)
        and list_contains($seconds, model_b)
        and (model_a, model_b) in (select model_a, model_b from batch)
        and is_measured(nature)
),
held as materialized (
    select
        mt.model_id, mt.key, mt.tensor_id, t.numel,
        case
            when mt.representation not in ('plain', 'weight_norm') then mt.representation
            when t.dtype like 'float8%' then replace(t.dtype, 'float8_', 'fp8_')
        end as scheme
    from model_tensor mt
    join tensor t on t.id = mt.tensor_id
    where (list_contains($firsts, mt.model_id) or list_contains($seconds, mt.model_id))
        and is_measured(mt.nature)
),
layer as (
    select
        l.model_a, l.model_b, l.component, l.status, a.scheme as scheme_a, b.scheme as scheme_b,
        (a.scheme is null) <> (b.scheme is null) as is_rounded,
        l.status in ('identical', 'same_values') as is_same,
        coalesce(a.numel, b.numel) as numel, r.measured, r.within, r.excess,
        coalesce(r.basis, '') as basis, r.proving
    from aligned l
    left join held a on a.model_id = l.model_a and a.key = l.key_a
    left join held b on b.model_id = l.model_b and b.key = l.key_b
    left join tensor_rounding r
        on r.tensor_a = least(a.tensor_id, b.tensor_id)
        and r.tensor_b = greatest(a.tensor_id, b.tensor_id)
    where a.tensor_id is not null or b.tensor_id is not null
)
select
    model_a, model_b, component,
    coalesce(list(distinct scheme_a order by scheme_a) filter (is_rounded and scheme_a is not null), []),
    coalesce(list(distinct scheme_b order by scheme_b) filter (is_rounded and scheme_b is not null), []),
    count(*) filter (is_rounded and status not like 'missing%') as rounded_keys,
    count(*) filter (is_rounded and status = 'changed' and measured is null
        or status in ('shape_mismatch', 'non_finite')) as unproven_keys,
    count(*) filter (not coalesce(is_rounded, false) and status = 'changed' and basis <> 'scaled')
        as changed_keys,
    count(*) filter (status = 'missing_a') as missing_a,
    count(*) filter (status = 'missing_b') as missing_b,
    coalesce(sum(if(is_same, numel, measured)) filter (is_rounded), 0)::bigint as measured,
    coalesce(sum(if(is_same, numel, within)) filter (is_rounded), 0)::bigint as within,
    coalesce(max(excess) filter (is_rounded and not is_same), 0) as excess,
    count(*) filter (is_rounded and status = 'changed' and basis = '' and within < measured)
        as moved_keys,
    count(*) filter (is_rounded and basis = 'compensated' and proving > 0) as compensated_keys,
    coalesce(sum(proving) filter (is_rounded and basis = 'compensated'), 0)::bigint as compensated,
    count(*) filter (is_rounded and basis = 'scaled') as scaled_keys,
    count(*) filter (not coalesce(is_rounded, false) and basis = 'scaled') as folded_keys,
    count(*) filter (is_rounded and basis = 'compensated' and proving = 0) as silent_keys
from layer
group by model_a, model_b, component
order by model_a, model_b, component;

-- name: changed_angles
-- The changed matrices of a pair: their norms, and the cosine between the two.
select
    l.canonical_key, ta.l2, tb.l2,
    (ta.l2 * ta.l2 + tb.l2 * tb.l2 - l.l2 * l.l2) / (2 * ta.l2 * tb.l2) as cosine
from layer_rows l
join model_tensor a on a.model_id = l.model_a and a.key = l.key_a
join model_tensor b on b.model_id = l.model_b and b.key = l.key_b
join tensor ta on ta.id = a.tensor_id
join tensor tb on tb.id = b.tensor_id
where l.model_a = $model_a and l.model_b = $model_b
    and l.status = 'changed'
    and is_measured(l.nature)
    and len(a.shape) >= 2
    and ta.l2 > 0 and tb.l2 > 0 and l.l2 is not null
order by l.canonical_key;

-- name: pair_renames
-- The renames that were found between the keys of one pair, and what speaks for them.
select prefix_a, prefix_b, keys, support
from rename
where model_a = $model_a and model_b = $model_b
order by keys desc, prefix_a, prefix_b;

-- name: component_keys
-- Which keys each family has in each component, to ask which of them it never uses.
select distinct m.family, t.component, t.canonical_key
from model_tensor t
join model m on m.id = t.model_id
order by all;

-- name: component_shapes
-- How many tensors of one component of one model have each shape.
select canonical_shape, count(*)
from model_tensor
where model_id = $model_id and component = $component
group by canonical_shape
order by canonical_shape;

-- name: model_components
-- The components that models hold tensors of.
select distinct model_id, component from model_tensor;

-- name: components_like
-- The components of some models, and of all others those that have a key of equal values, at least
-- once rounded, with them: no other component can be equal as a whole.
with held as (
    select mt.model_id, mt.component, mt.canonical_key, t.fp16_hash, t.bf16_hash
    from model_tensor mt
    join tensor t on t.id = mt.tensor_id
),
asked as (select h.* from held h join batch b on b.model_id = h.model_id)
select distinct h.model_id, h.component
from held h
where (h.component, h.canonical_key, h.bf16_hash) in (
        select a.component, a.canonical_key, a.bf16_hash from asked a
    )
    or (h.component, h.canonical_key, h.fp16_hash) in (
        select a.component, a.canonical_key, a.fp16_hash from asked a
    );

-- name: component_facts
-- What models have of some components, and signatures: equal for components that are equal in
-- the same dtype, by value, or once rounded; `used` ones without the keys that a family never
-- uses. Positions that are whole, 0, 1, 2 …, are made anew where they are missing, so they do not
-- count either, and counters of training steps enter no computation. Infinities are no evidence of equal values: float16 ends at 65504.
with held as (
    select
        mt.model_id,
        mt.component,
        mt.canonical_key || ' ' || mt.canonical_shape || ' ' as place,
        t.dtype,
        t.numel,
        not t.is_constant and t.numel >= 64
            and (is_measured(mt.nature) or mt.nature = 'change') as is_telling,
        t.nans + t.infs > 0 as is_non_finite,
        md5_number(place || t.content_hash) as bytes_at,
        md5_number(place || t.value_hash)   as values_at,
        md5_number(place || case when t.linf <= 65504 then t.fp16_hash else t.value_hash end)
            as fp16_at,
        md5_number(place || t.bf16_hash)    as bf16_at,
        case
            when u.canonical_key is not null or mt.nature = 'counter' then false
            when mt.canonical_key not like '%position_ids' then true
            else coalesce(t.sketch <> list_transform(range(t.numel), lambda x: x::float), true)
        end as used
    from model_tensor mt
    join tensor t on t.id = mt.tensor_id
    join model m on m.id = mt.model_id
    join wanted w on w.model_id = mt.model_id and w.component = mt.component
    left join unused u
        on u.family::varchar = m.family
        and u.component::varchar = mt.component
        and u.canonical_key::varchar = mt.canonical_key
)
select
    model_id,
    component,
    count(*)                                         as keys,
    sum(numel)::bigint                               as parameters,
    count(*) filter (is_telling)                     as telling,
    count(*) filter (is_non_finite)                  as non_finite,
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
    l.model_a, l.model_b, l.component, l.canonical_key, l.key_a, l.key_b, l.block, l.role,
    l.status, l.l2,
    null as shape_a, null as shape_b, l.nature
from imported_layer l
join batch b on b.model_a = l.model_a and b.model_b = l.model_b
order by l.model_a, l.model_b, l.component, l.canonical_key;

-- name: pairs_beside_signatures
-- The pairs whose components may be equal though their signatures are not: published ones, and
-- those whose canonical keys a rename brings together.
select model_a, model_b from component_distance where source = 'imported'
union
select model_a, model_b from rename
order by model_a, model_b;

-- name: renamed_components
-- Components that two models call otherwise, as far as renames bring their keys together.
select distinct r.model_a, r.model_b, a.component, b.component
from renamed_key r
join model_tensor a on a.model_id = r.model_a and a.canonical_key = r.key_a
join model_tensor b on b.model_id = r.model_b and b.canonical_key = r.key_b
where a.component <> b.component
order by all;

-- name: core_distances
-- How far the models of each pair are apart: by their denoisers where either has one, else in all;
-- and how many keys of these are in no distance: of one model, of another shape, with NaN or inf.
with summed as (
    select
        model_a,
        model_b,
        bool_or(component in ('unet', 'transformer')) as by_denoiser,
        sum(l2 * l2) filter (component in ('unet', 'transformer')) as of_denoiser,
        sum(l2 * l2) filter (component not in ('ema', 'training_state')) as of_all,
        sum(coalesce(shape_mismatch + non_finite + missing_a + missing_b, 0))
            filter (component in ('unet', 'transformer')) as without_of_denoiser,
        sum(coalesce(shape_mismatch + non_finite + missing_a + missing_b, 0))
            filter (component not in ('ema', 'training_state')) as without_of_all
    from component_distance
    group by model_a, model_b
)
select
    model_a, model_b,
    sqrt(case when by_denoiser then of_denoiser else of_all end) as l2,
    coalesce(case when by_denoiser then without_of_denoiser else without_of_all end, 0)::integer
        as without_distance
from summed
where l2 is not null
order by model_a, model_b;

-- name: compared_norms
-- The squared norms of the matrices that some pairs have in common and that differ, by component.
-- Vectors, tables of positions and what is equal anyway would make unrelated weights look alike.
select
    p.model_a,
    p.model_b,
    a.component,
    sum(ta.l2 * ta.l2) as of_a,
    sum(tb.l2 * tb.l2) as of_b
from batch p
join model_tensor a on a.model_id = p.model_a
left join renamed_key r
    on r.model_a = p.model_a and r.model_b = p.model_b and r.key_a = a.canonical_key
join model_tensor b
    on b.model_id = p.model_b
    and b.canonical_key = coalesce(r.key_b, a.canonical_key)
    and b.canonical_shape = a.canonical_shape
join tensor ta on ta.id = a.tensor_id and ta.l2 is not null
join tensor tb on tb.id = b.tensor_id and tb.l2 is not null
where len(a.shape) >= 2
    and ta.dtype like '%float%'
    and tb.dtype like '%float%'
    and is_measured(a.nature)
    and is_measured(b.nature)
    and a.canonical_key not like '%position_ids'
    and ta.value_hash <> tb.value_hash
    and ta.fp16_hash <> tb.fp16_hash
    and ta.bf16_hash <> tb.bf16_hash
group by p.model_a, p.model_b, a.component
order by p.model_a, p.model_b, a.component;

-- name: ema_matches
-- How the EMA copy of a model stands to the UNets of all models: behind `model_ema.` the dots of
-- a key are removed.
with ema as (
    select mt.model_id, substr(mt.canonical_key, len('model_ema.') + 1) as place, t.*
    from model_tensor mt
    join tensor t on t.id = mt.tensor_id
    where mt.component = 'ema' and starts_with(mt.canonical_key, 'model_ema.')
),
unet as (
    select
        mt.model_id, replace(substr(mt.canonical_key, len('model.') + 1), '.', '') as place, t.*
    from model_tensor mt
    join tensor t on t.id = mt.tensor_id
    where mt.component = 'unet' and exists (select 1 from ema)
),
ema_keys as (select model_id, count(*) as keys from ema group by model_id)
select
    e.model_id as ema_model,
    u.model_id as unet_model,
    any_value(k.keys) as keys,
    count(*) filter (e.value_hash = u.value_hash) as same_values,
    count(*) filter (
        e.value_hash = u.value_hash
        or e.fp16_hash = u.fp16_hash and greatest(e.linf, u.linf) <= 65504
    ) as same_at_fp16
from ema e
join ema_keys k on k.model_id = e.model_id
join unet u on u.place = e.place
group by e.model_id, u.model_id
having same_at_fp16 = any_value(k.keys)
order by e.model_id, u.model_id;

-- name: odd_keys
-- Tensors that hold NaN or inf, or nothing but zeros; single numbers and counters may be 0.
select
    mt.model_id, mt.component, mt.canonical_key, mt.block, t.nans, t.infs, t.numel, t.zeros,
    len(mt.shape) as dims
from model_tensor mt
join tensor t on t.id = mt.tensor_id
where t.nans + t.infs > 0
    or t.zeros = t.numel and t.numel > 1 and mt.component <> 'training_state'
order by mt.model_id, mt.component, mt.canonical_key;

-- name: position_ids
-- The positions that text encoders look their embeddings up by, where the sketch holds them whole.
-- Materialized, so that no sketch is looked at where there are no such keys.
with positions as materialized (
    select mt.model_id, mt.component, mt.canonical_key, mt.tensor_id
    from model_tensor mt
    join batch b on b.model_id = mt.model_id
    where mt.canonical_key like '%position_ids'
)
select p.model_id, p.component, p.canonical_key, t.dtype, t.sketch
from positions p
join tensor t on t.id = p.tensor_id
where len(t.sketch) = t.numel and t.numel > 0
order by p.model_id, p.canonical_key;

-- name: float_dtypes
-- How many plain tensors of each float dtype a component of some models holds, where it holds several
-- dtypes.
select model_id, component, list(dtype order by keys desc, dtype), list(keys order by keys desc, dtype)
from (
    select mt.model_id, mt.component, t.dtype, count(*) as keys
    from model_tensor mt
    join tensor t on t.id = mt.tensor_id
    where mt.model_id in (select model_id from batch)
        and t.dtype like '%float%'
        and coalesce(mt.representation, 'plain') = 'plain'  -- decoded values have no dtype of a file
        and mt.component not in ('training_state', 'other')
        and mt.canonical_key not like '%position_ids'
    group by mt.model_id, mt.component, t.dtype
)
group by model_id, component
having count(*) > 1
order by model_id, component;

-- name: keys_of_component
-- All keys of some components of some models, to name a few of them by.
select mt.model_id, mt.component, mt.canonical_key
from model_tensor mt
join batch b on b.model_id = mt.model_id and b.component = mt.component
order by mt.model_id, mt.component, mt.canonical_key;

-- name: held_components
-- Which components each model that has tensors here holds.
select distinct model_id, component from model_tensor order by model_id, component;

-- name: fingerprint_models
-- The models that have tensors here, of the wanted components.
select distinct m.id, m.name
from model_tensor mt
join model m on m.id = mt.model_id
join batch b on b.component = mt.component
order by m.id;

-- name: write_fingerprints
-- Fingerprints of some components of some models, under the names given: hashes, norms and
-- sketches, no weights, no paths and no metadata.
copy (
    select
        c.name as model, m.family, m.variant, m.layout,
        mt.component, mt.block, mt.role, mt.canonical_key, mt.canonical_shape, mt.shape,
        mt.sources, mt.transposed, mt.representation,
        t.dtype, t.numel, t.content_hash, t.value_hash, t.fp16_hash, t.bf16_hash,
        t.l1, t.l2, t.linf, t.mean, t.std, t.kurtosis, t.zeros, t.nans, t.infs, t.is_constant,
        t.sketch
    from chosen c
    join model m on m.id = c.model_id
    join model_tensor mt on mt.model_id = m.id
    join batch b on b.component = mt.component
    join tensor t on t.id = mt.tensor_id
    order by c.name, mt.canonical_key
) to $path (
    format parquet,
    compression zstd,
    kv_metadata {
        megasim_fingerprints: $format_version,
        fingerprint_version: $fingerprint_version,
        sketch_size: $sketch_size
    }
);

-- name: fingerprint_file_versions
-- What a fingerprint file says of itself.
select decode(key), decode(value) from parquet_kv_metadata($path) order by all;

-- name: fingerprint_file_rows
-- How many rows a Parquet file says it has.
select num_rows from parquet_file_metadata($path);

-- name: fingerprint_file_columns
-- The columns of a Parquet file.
select column_name, column_type from (describe select * from read_parquet($path));

-- name: fingerprint_file_faults
-- The first row of a fingerprint file that cannot be one, with the reason.
with judged as (
    select
        model,
        canonical_key,
        case
            when not coalesce(
                len(model) between 1 and 200
                and len(canonical_key) between 1 and 1024
                and len(component) between 1 and 200
                and regexp_full_match(canonical_shape, '(\d{1,15}(x\d{1,15}){0,15})?')
                and greatest(len(family), len(variant), len(layout), len(block), len(role), 0) <= 200
                and len(sources) between 1 and 64
                and coalesce(list_max(list_transform(sources, lambda s: len(s))), 0) <= 1024
                and not list_contains(list_transform(sources, lambda s: s is null), true)
            , false) then 'names that are missing or too long'
            when not regexp_full_match(representation, '[A-Za-z0-9][A-Za-z0-9 _.,:;()/+-]{0,99}')
                then 'a representation that cannot be'
            when not coalesce(
                len(shape) <= 16
                and not list_contains(list_transform(shape, lambda n: coalesce(n < 0, true)), true)
                and numel = coalesce(list_product(shape), 1)
                and numel = coalesce(list_product(list_transform(
                    string_split(nullif(canonical_shape, ''), 'x'), lambda n: n::bigint)), 1)
                and numel >= 0
            , false) then 'a shape that its number of elements does not fit'
            when not coalesce(list_contains($dtypes, dtype), false) then 'an unknown dtype'
            when not coalesce(
                least(zeros, nans, infs) >= 0
                and zeros <= numel
                and nans <= numel
                and infs <= numel
                and transposed is not null
                and is_constant is not null
            , false) then 'counts that cannot be'
            when not coalesce(
                regexp_full_match(content_hash, '[0-9a-f]{64}')
                and regexp_full_match(value_hash, '[0-9a-f]{32}')
                and regexp_full_match(fp16_hash, '[0-9a-f]{32}')
                and regexp_full_match(bf16_hash, '[0-9a-f]{32}')
            , false) then 'hashes that cannot be'
            when not coalesce(
                len(sketch) in (0, least(numel, $sketch_size * f.factor))
                and not list_contains(
                    list_transform(sketch, lambda x: coalesce(not isfinite(x), true)), true)
            , false) then 'a sketch that cannot be'
            when list_contains(list_transform(
                [l1, l2, linf, std, abs(mean), abs(kurtosis)],
                lambda x: not isfinite(x) or x < 0), true) then 'norms that cannot be'
            when count(*) over (partition by model, canonical_key) > 1 then 'a key that stands twice'
        end as fault
    from (
        from read_parquet($path)
        union all by name
        select null::varchar as representation where false  -- files of version 1 have none
    ) r
    asof left join length_factors f on r.numel >= f.elements
)
select fault, coalesce(model, ''), coalesce(canonical_key, '')
from judged
where fault is not null
limit 1;

-- name: fingerprint_file_contradictions
-- Contents of which a fingerprint file says two things, or another than the store has measured.
with told as (
    select content_hash, value_hash, fp16_hash, bf16_hash, dtype, numel from read_parquet($path)
    union
    select t.content_hash, t.value_hash, t.fp16_hash, t.bf16_hash, t.dtype, t.numel
    from tensor t
    semi join read_parquet($path) r on r.content_hash = t.content_hash
)
select content_hash from told group by content_hash having count(*) > 1 limit 1;

-- name: fingerprint_file_models
-- The models of a fingerprint file.
select model, any_value(family), any_value(variant), any_value(layout)
from read_parquet($path)
group by model
order by model;

-- name: fingerprint_file_tensors
-- What a fingerprint file says of one model.
select
    sources, transposed, canonical_key, canonical_shape, shape, component, block, role,
    representation,
    content_hash, value_hash, fp16_hash, bf16_hash, dtype, numel,
    l1, l2, linf, mean, std, kurtosis, zeros, nans, infs, is_constant, sketch
from (
    from read_parquet($path)
    union all by name
    select null::varchar as representation where false  -- files of version 1 have none
)
where model = $model
order by canonical_key;

-- name: contents_of_model
-- What a model holds, to see whether it is the same as another of its name.
select mt.canonical_key, t.content_hash
from model_tensor mt
join tensor t on t.id = mt.tensor_id
where mt.model_id = $id
order by mt.canonical_key;

-- name: unread_keys
-- The keys of all models that name tensors of which no values could be read.
select
    model_id, canonical_key, component, reason, dtype,
    array_to_string(shape, 'x') as shape, digest
from unread_key
order by model_id, canonical_key;

-- name: unread_elsewhere
-- Which models hold, with its values, a key that is unread in another.
select distinct mt.model_id, mt.canonical_key
from model_tensor mt
semi join unread_key u on u.canonical_key = mt.canonical_key
order by all;

-- name: equal_keys
-- How many keys of each component some pairs hold with equal values, at least once rounded; trivial
-- tensors, constant or of fewer than 64 elements, and what is no weight, are no evidence.
select p.model_a, p.model_b, a.component, count(*) as keys
from batch p
join model_tensor a on a.model_id = p.model_a
left join renamed_key r
    on r.model_a = p.model_a and r.model_b = p.model_b and r.key_a = a.canonical_key
join model_tensor b
    on b.model_id = p.model_b
    and b.canonical_key = coalesce(r.key_b, a.canonical_key)
    and b.canonical_shape = a.canonical_shape
join tensor ta on ta.id = a.tensor_id
join tensor tb on tb.id = b.tensor_id
where not ta.is_constant
    and not tb.is_constant
    and ta.numel >= 64
    and (is_measured(a.nature) or a.nature = 'change')
    and a.canonical_key not like '%position_ids'
    and (
        ta.value_hash = tb.value_hash
        or ta.fp16_hash = tb.fp16_hash and greatest(ta.linf, tb.linf) <= 65504
        or ta.bf16_hash = tb.bf16_hash
    )
group by p.model_a, p.model_b, a.component
order by p.model_a, p.model_b, a.component;

-- name: keys_of_status
-- The keys of one pair that have one of some statuses, with the numbers of both tensors; and of
-- those that one model lacks, under which key it holds the same tensor.
select
    j.component, j.canonical_key, j.block, j.status, j.nature,
    case
        when j.tensor_a is null then (
            select min(x.canonical_key)
            from model_tensor x
            where x.model_id = j.model_a and x.tensor_id = j.tensor_b
        )
        when j.tensor_b is null then (
            select min(x.canonical_key)
            from model_tensor x
            where x.model_id = j.model_b and x.tensor_id = j.tensor_a
        )
    end as repeats,
    j.shape_a, ta.numel, ta.zeros, ta.l1, ta.l2, ta.linf, ta.mean,
    j.shape_b, tb.numel, tb.zeros, tb.l1, tb.l2, tb.linf, tb.mean
from judged_layers j
left join tensor ta on ta.id = j.tensor_a
left join tensor tb on tb.id = j.tensor_b
where j.model_a = $model_a
    and j.model_b = $model_b
    and list_contains($statuses, j.status)
order by j.component, j.canonical_key;

-- name: contents_in_common
-- How many telling tensors both models of some pairs hold, under any key, and the first such key of
-- either.
select
    p.model_a, p.model_b, count(distinct a.tensor_id) as tensors,
    min(a.canonical_key) as key_a, min(b.canonical_key) as key_b
from batch p
join model_tensor a on a.model_id = p.model_a
join tensor t on t.id = a.tensor_id
join model_tensor b on b.model_id = p.model_b and b.tensor_id = a.tensor_id
where not t.is_constant and t.numel >= 64
    and (is_measured(a.nature) or a.nature = 'change')
group by p.model_a, p.model_b
order by p.model_a, p.model_b;

-- name: telling_contents
-- How many telling tensors each model holds, under whatever keys, and how many tensors in all.
select
    mt.model_id,
    count(distinct t.id) filter (
        not t.is_constant and t.numel >= 64 and (is_measured(mt.nature) or mt.nature = 'change')
    ) as telling
from model_tensor mt
join tensor t on t.id = mt.tensor_id
group by mt.model_id
order by mt.model_id;

-- name: beside_state_dicts
-- What stands in files beside their state dicts, where its contents could be looked at.
select model_id, place, digest from beside where digest is not null order by model_id, place;

-- name: known_components
-- The components that have a name of their own, of fingerprints that compare with these.
select name, component, fingerprint
from known_component
where is_comparable(version)
order by name, component;

-- name: add_known_component
-- Give a component a name.
insert into known_component (name, component, fingerprint, version)
values ($name, $component, $fingerprint, $version);

-- name: remove_known_component
-- Forget a name.
delete from known_component where name = $name;

-- name: damaged_models
-- The models whose keys were lost out of the store.
from keyless_models;

-- name: missing_pairs
-- Of some models with files: of how many pairs with the others nothing is known.
with chosen as (
    select m.id, m.name
    from model m
    join batch b on b.id = m.id
    where m.source = 'checkpoint' and m.id not in (from keyless_models)
),
known as (
    select distinct c.model_a, c.model_b
    from component_distance c
    join chosen a on a.id = c.model_a
    join chosen b on b.id = c.model_b
),
met as (
    select model_a as id from known
    union all
    select model_b from known
)
select c.name, (select count(*) from chosen) - 1 - count(met.id) as missing
from chosen c
left join met using (id)
group by c.id, c.name
order by c.id;
