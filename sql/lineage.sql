-- What the lineage needs to know of models and pairs beside distances.

-- name: model_facts
-- Of each model and component: norm, that of the contents it has alone (or with models of which the
-- whole component is the same), mean kurtosis by elements, and the commonest dtype.
with whole as (
    select model_id, component, bit_xor(hash(canonical_key, tensor_id)) as signature
    from model_tensor
    where is_measured(nature)
    group by all
),
shared as (
    select mt.tensor_id
    from model_tensor mt
    join whole w on w.model_id = mt.model_id and w.component = mt.component
    group by mt.tensor_id
    having min(w.signature) <> max(w.signature)
)
select
    m.name,
    mt.component,
    sqrt(sum(t.l2 * t.l2 order by mt.canonical_key)) as norm,
    sqrt(coalesce(
        sum(t.l2 * t.l2 order by mt.canonical_key) filter (s.tensor_id is null), 0
    )) as own_norm,
    sum(t.kurtosis * t.numel order by mt.canonical_key)
        / nullif(sum(t.numel) filter (t.kurtosis is not null), 0) as kurtosis,
    arg_max(t.dtype, t.numel) as dtype,
    count(*) as keys
from model_tensor mt
join model m on m.id = mt.model_id
join tensor t on t.id = mt.tensor_id
left join shared s on s.tensor_id = mt.tensor_id
where is_measured(mt.nature)
group by m.id, m.name, mt.component
order by m.id, mt.component;

-- name: pair_facts
-- Of each compared pair and component: how many keys stand in which tier.
select
    model_a, model_b, component, identical, same_values, same_at_fp16, same_at_bf16, changed,
    missing_a, missing_b, shape_mismatch, non_finite
from component_distances
where keys_compared is not null
order by model_a, model_b, component;
