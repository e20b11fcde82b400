-- What the lineage needs to know of models and pairs beside distances.

-- name: model_facts
-- Of each model and component: norm, that of the contents it has alone (or with models of which the
-- whole component is the same, or that are of another scale or damaged), mean kurtosis by elements,
-- the commonest dtype, keys, keys with NaN or inf, and the representation of the largest quantised
-- tensor, '' where all are plain. Of the models of {chosen}; what they share with others counts.
-- {same_scale}
with near as (
    select distinct model_id
    from model_tensor
    where tensor_id in (
        select tensor_id from model_tensor where model_id in (select model_id from chosen)
    )
),
whole as (
    select
        mt.model_id,
        mt.component,
        bit_xor(hash(mt.canonical_key, mt.tensor_id)) as signature,
        sqrt(sum(t.l2 * t.l2 order by mt.canonical_key)) as norm,
        count(*) filter (t.nans + t.infs > 0) as non_finite
    from model_tensor mt
    join tensor t on t.id = mt.tensor_id
    where is_measured(mt.nature) and mt.model_id in (select model_id from near)
    group by all
),
held as (
    select distinct mt.tensor_id, w.component, w.signature, w.norm
    from model_tensor mt
    join whole w on w.model_id = mt.model_id and w.component = mt.component
    where w.non_finite = 0 and is_measured(mt.nature)
),
shared as (
    select tensor_id, component, signature
    from held
    window by_norm as (partition by tensor_id, component order by norm, signature)
    qualify norm <= $same_scale * lag(norm) over by_norm
        or lead(norm) over by_norm <= $same_scale * norm
)
select
    m.name,
    mt.component,
    w.norm,
    sqrt(coalesce(
        sum(t.l2 * t.l2 order by mt.canonical_key) filter (s.tensor_id is null), 0
    )) as own_norm,
    sum(t.kurtosis * t.numel order by mt.canonical_key)
        / nullif(sum(t.numel) filter (t.kurtosis is not null), 0) as kurtosis,
    arg_max(t.dtype, t.numel) as dtype,
    count(*) as keys,
    w.non_finite,
    coalesce(arg_max(
        case
            when mt.representation not in ('plain', 'weight_norm') then mt.representation
            when t.dtype like 'float8%' then replace(t.dtype, 'float8_', 'fp8_')
        end,
        t.numel
    ) filter (mt.representation not in ('plain', 'weight_norm') or t.dtype like 'float8%'), '') as scheme
from model_tensor mt
join model m on m.id = mt.model_id
join tensor t on t.id = mt.tensor_id
join whole w on w.model_id = mt.model_id and w.component = mt.component
left join shared s
    on s.tensor_id = mt.tensor_id and s.component = mt.component and s.signature = w.signature
where is_measured(mt.nature) and mt.model_id in (select model_id from chosen)
group by m.id, m.name, mt.component, w.norm, w.non_finite
union all
-- of a sample the norms are estimates, and no content is known to be shared
select
    m.name,
    h.component,
    sqrt(sum(h.l2 * h.l2 order by h.canonical_key)),
    sqrt(sum(h.l2 * h.l2 order by h.canonical_key)),
    null,
    arg_max(h.dtype, h.numel),
    count(*),
    count(*) filter (not h.is_finite),
    coalesce(
        arg_max(h.representation, h.numel) filter (h.representation not in ('plain', 'weight_norm')),
        ''
    )
from held_keys h
join model m on m.id = h.model_id
where m.tier = 'sample' and is_measured(h.nature)
group by m.name, h.component
order by all;

-- name: counters
-- Of some models, what single numbers in its weights count: batches seen, updates made.
select m.name, mt.canonical_key, t.l2
from model_tensor mt
join model m on m.id = mt.model_id
join tensor t on t.id = mt.tensor_id
where mt.model_id in (select model_id from chosen)
    and mt.nature = 'counter'
    and t.numel = 1
    and t.l2 is not null
order by m.id, mt.canonical_key;

-- name: weight_signatures
-- Of some models, over some components: what is equal for equal weights once rounded to float16,
-- and once rounded to bfloat16. {batch}
select
    m.name,
    bit_xor(hash(
        mt.canonical_key,
        -- beyond 65504 float16 is infinite, and infinities are no evidence
        if(t.linf <= 65504, t.fp16_hash, t.value_hash)
    ))::varchar as at_fp16,
    bit_xor(hash(mt.canonical_key, t.bf16_hash))::varchar as at_bf16
from model_tensor mt
join batch b on b.component = mt.component
join model m on m.id = mt.model_id
join tensor t on t.id = mt.tensor_id
where is_measured(mt.nature) and mt.model_id in (select model_id from chosen)
group by m.id, m.name
having count(*) filter (t.nans + t.infs > 0) = 0
order by m.id;

-- name: layer_norms
-- L2 of each tensor of some models in some components.
select m.name, h.canonical_key, h.l2
from held_keys h
join batch b on b.component = h.component
join chosen c on c.model_id = h.model_id
join model m on m.id = h.model_id
where is_measured(h.nature) and h.l2 is not null
order by m.id, h.canonical_key;

-- name: sources_of_keys
-- Where the tensors of some models in some components stand in their files.
select
    mt.model_id, mt.canonical_key, mt.block, mt.role, t.numel, mt.sources, mt.transposed
from model_tensor mt
join batch b on b.component = mt.component
join chosen c on c.model_id = mt.model_id
join tensor t on t.id = mt.tensor_id
where is_measured(mt.nature) and t.l2 is not null
order by mt.canonical_key, mt.model_id;

-- name: statistics
-- The keys that hold running statistics in any model.
select distinct canonical_key
from (
    select canonical_key, nature from model_tensor
    union all
    select canonical_key, nature from imported_layer
)
where nature = 'statistic'
order by canonical_key;

-- name: pair_facts
-- Of some compared pairs and each component: how many keys stand in which tier. {batch}
select
    a.name as name_a, b.name as name_b, c.component, c.identical, c.same_values, c.same_at_fp16,
    c.same_at_bf16, c.changed, c.missing_a, c.missing_b, c.shape_mismatch, c.non_finite,
    c.same_in_sample
from component_distance c
join batch using (model_a, model_b)
join model a on a.id = c.model_a
join model b on b.id = c.model_b
where c.keys_compared is not null
order by name_a, name_b, c.component;

-- name: compared_models
-- Those of some models of which keys were compared with those of another of them. {chosen}
with pair as (
    select model_a, model_b
    from component_distance
    where keys_compared is not null
        and model_a in (select model_id from chosen)
        and model_b in (select model_id from chosen)
)
select name
from model
where id in (select model_a from pair union all select model_b from pair)
order by name;

-- name: keys_to_merge
-- What a model calls its tensors, in the order of their canonical keys.
select canonical_key, component, block, role, sources
from model_tensor
where model_id = $id
order by canonical_key;

-- name: commonest_dtype
-- The dtypes of the elements of a model, that of most of them first.
select t.dtype
from model_tensor mt
join tensor t on t.id = mt.tensor_id
where mt.model_id = $id
group by t.dtype
order by sum(t.numel) desc, t.dtype;

-- name: layers_around_moved_ones
-- Tensors that stand in a block of models of which one stands in another block elsewhere, and of
-- the models that hold one of theirs: all stacks and what they are made of are among them.
-- Constant tensors are left out: any two models may hold the same.
with held as (
    select mt.model_id, mt.canonical_key, mt.block, t.value_hash, t.numel
    from model_tensor mt
    join tensor t on t.id = mt.tensor_id
    where mt.block is not null and is_measured(mt.nature) and not t.is_constant
),
moved as (
    select value_hash, numel
    from held
    group by all
    having min(block) <> max(block)
),
movers as (
    select distinct model_id from held join moved using (value_hash, numel)
),
theirs as (
    select distinct value_hash, numel from held join movers using (model_id)
),
around as (
    select distinct model_id from held join theirs using (value_hash, numel)
)
select m.name, h.canonical_key, h.block, h.value_hash, h.numel
from held h
join around using (model_id)
join model m on m.id = h.model_id
order by m.name, h.canonical_key;
