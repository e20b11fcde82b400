-- Estimates from the sketches: what is read for them, and what is kept.

-- name: sketch_keys
-- The keys of some components, with how many of some models (members) hold each.
select mt.canonical_key, mt.component, count(*) as models
from model_tensor mt
join batch b on b.component = mt.component
join members m on m.model_id = mt.model_id
group by mt.canonical_key, mt.component
order by mt.component, mt.canonical_key;

-- name: key_anatomy
-- The block, the role and the size of each key of some components.
select mt.canonical_key, min(mt.block) as block, min(mt.role) as role, max(t.numel) as numel
from model_tensor mt
join tensor t on t.id = mt.tensor_id
join batch b on b.component = mt.component
group by mt.canonical_key
order by mt.canonical_key;

-- name: sketch_holders
-- Which of some models (members) hold what under some keys; shapes and names of keys as numbers,
-- equal for equal ones.
select
    b.position,
    mt.model_id,
    mt.tensor_id,
    is_measured(mt.nature) as is_measured,
    dense_rank() over (order by mt.canonical_shape) - 1 as shape,
    dense_rank() over (order by mt.key) - 1 as name
from model_tensor mt
join batch b on b.canonical_key = mt.canonical_key and b.component = mt.component
join members m on m.model_id = mt.model_id
order by b.position, mt.model_id;

-- name: contents_of_holders
-- Sizes and hashes of some contents; hashes as numbers, equal for equal ones.
select
    t.id,
    t.numel,
    dense_rank() over (order by t.value_hash) as value,
    -- beyond 65504 float16 is infinite, and infinities are no evidence
    case when t.linf <= 65504 then dense_rank() over (order by t.fp16_hash) else -1 end as fp16,
    dense_rank() over (order by t.bf16_hash) as bf16,
    t.nans + t.infs = 0 as is_finite
from tensor t
join batch b on b.tensor_id = t.id
order by t.id;

-- name: sketches_of
-- The sketches of some contents, apart from their hashes: what sorts those need not carry these.
select coalesce(t.sketch, []) as sketch
from tensor t
join batch b on b.tensor_id = t.id
order by t.id;

-- name: models_of_other_versions
-- Of some models (members), those whose sketches cannot be compared with those of this version.
select m.name
from model m
join members i on i.model_id = m.id
where m.source <> 'imported' and not is_comparable(m.fingerprint_version)
order by m.id;

-- name: tensor_holders
-- The models that hold tensors of a component, in the order they came.
select distinct mt.model_id
from model_tensor mt
join batch b on b.component = mt.component
order by mt.model_id;

-- name: known_pairs
-- The pairs of which a component is known already, from whatever source; those of one model alone
-- with $of, which is NULL for all.
select distinct c.model_a, c.model_b
from component_distance c
join batch b on b.component = c.component
where $of::integer is null or $of in (c.model_a, c.model_b);

-- name: add_estimates
-- Estimates of pairs and components of which nothing better is known.
insert into component_distance
select
    b.model_a, b.model_b, b.component, 'estimated', null, false,
    b.keys_compared, b.identical, b.same_values, b.same_at_fp16, b.same_at_bf16, b.changed,
    b.renamed, b.missing_a, b.missing_b, b.shape_mismatch, b.non_finite,
    null, null, b.l2, null, null, b.l2_error,
    b.keys_compared / nullif(
        b.keys_compared + b.missing_a + b.missing_b + b.shape_mismatch + b.non_finite, 0),
    b.keys_measured,
    current_fingerprint(),
    null,
    null
from batch b
anti join component_distance c
    on c.model_a = b.model_a and c.model_b = b.model_b and c.component = b.component
order by b.model_a, b.model_b, b.component;

-- name: profiles_of_model
-- The profile of each key of a model: that of its content, in the lengths that its shape gives.
select mt.canonical_key, mt.shape, t.l2, p.rows, p.columns
from model_tensor mt
join tensor t on t.id = mt.tensor_id
left join profile p
    on p.tensor_id = mt.tensor_id
    and coalesce(octet_length(p.rows) = 2 * mt.shape[1], p.rows is null)
    and coalesce(octet_length(p.columns) = 2 * mt.shape[2], p.columns is null)
where mt.model_id = $id and len(mt.shape) >= 2
order by mt.canonical_key;

-- name: unfolded_components
-- Components of models whose sketches are not folded yet, by this version of the fold.
-- Sketches, by far the most of a store, are looked at only of components that have no fold.
with unfolded as materialized (
    select distinct mt.model_id, mt.component
    from model_tensor mt
    where is_measured(mt.nature)
        and not exists (
            from folded_sketch f
            where f.model_id = mt.model_id
                and f.component = mt.component
                and f.sketch_version = $fold_version
        )
)
select distinct u.model_id, u.component
from unfolded u
join model_tensor mt on mt.model_id = u.model_id and mt.component = u.component
join tensor t on t.id = mt.tensor_id
where is_measured(mt.nature) and len(t.sketch) > 0
order by u.model_id, u.component;

-- name: sketches_of_component
-- The sketches of a component of a model that are folded together.
select mt.canonical_key, mt.canonical_shape, t.sketch
from model_tensor mt
join tensor t on t.id = mt.tensor_id
where mt.model_id = $id
    and mt.component = $component
    and is_measured(mt.nature)
    and len(t.sketch) > 0
order by mt.canonical_key;

-- name: add_folded_sketches
-- The folded sketches of components of models.
insert into folded_sketch
select model_id, component, keys, key_set, sketch, sketch_version
from batch
order by model_id, component;

-- name: folded_sets
-- The models that have folded sketches of some components, and a text for the keys and shapes that
-- went into them.
select m.name, m.id, string_agg(f.component || ' ' || f.key_set, ' ' order by f.component) as key_set
from folded_sketch f
join model m on m.id = f.model_id
where f.sketch_version = $fold_version and list_contains($components, f.component)
group by m.name, m.id
order by m.id;

-- name: folded_sketches
-- The folded sketches of a component of the models $first to $last.
select f.model_id, f.sketch
from folded_sketch f
where f.component = $component
    and f.sketch_version = $fold_version
    and f.model_id between $first and $last
order by f.model_id;

-- name: has_fold
-- One row if a model has the folded sketch of a component.
select 1
from folded_sketch
where model_id = $id and component = $component and sketch_version = $fold_version
limit 1;

-- name: fold_distances
-- How far the folded sketch of a component of one model is from those of all others that have the
-- same keys in the same shapes, in squares. One sketch as a constant takes a third less than a join.
select
    f.model_id,
    list_distance(f.sketch, (
        select o.sketch
        from folded_sketch o
        where o.model_id = $id and o.component = $component and o.sketch_version = $fold_version
    )) ** 2 as squared
from folded_sketch f
where f.component = $component
    and f.sketch_version = $fold_version
    and f.model_id <> $id
    and f.key_set = (
        select o.key_set
        from folded_sketch o
        where o.model_id = $id and o.component = $component and o.sketch_version = $fold_version
    );

-- name: folds_like
-- The models whose folded sketch of a component is of the same keys in the same shapes as that of one
-- model, itself among them, and a number for what each fold was made of.
select
    f.model_id,
    m.contents_digest is not null as is_known,
    md5_number_lower(concat_ws(' ', m.contents_digest, m.sketch_size, f.key_set)) as fold_key
from folded_sketch f
join model m on m.id = f.model_id
where f.component = $component
    and f.sketch_version = $fold_version
    and f.key_set = (
        select o.key_set
        from folded_sketch o
        where o.model_id = $id and o.component = $component and o.sketch_version = $fold_version
    )
order by f.model_id;

-- name: fold_keys
-- The numbers of all folded sketches of a component, as those of folds_like.
select md5_number_lower(concat_ws(' ', m.contents_digest, m.sketch_size, f.key_set)) as fold_key
from folded_sketch f
join model m on m.id = f.model_id
where f.component = $component
    and f.sketch_version = $fold_version
    and m.contents_digest is not null;

-- name: holder_count
-- How many models hold some components.
select count(distinct model_id) from model_tensor where list_contains($components, component);

-- name: matrix_layouts
-- Models of some components by the matrices that they hold, those with the same ones together; of
-- models that were not read in full only those of the table sampled.
with held as (
    select model_id, component, canonical_key, shape, nature from model_tensor
    union all
    select model_id, component, canonical_key, shape, nature
    from listed_key
    where model_id in (select model_id from sampled)
),
layout as (
    select
        mt.model_id,
        list(struct_pack(key := mt.canonical_key, shape := mt.shape) order by mt.canonical_key)
            as matrices
    from held mt
    join batch b on b.component = mt.component
    where mt.nature = 'weight' and len(mt.shape) >= 2
    group by mt.model_id
)
select matrices, list(model_id order by model_id) as model_ids
from layout
group by matrices
order by model_ids;

-- name: profiles_of_axes
-- The norms along some axes of keys, for each of some models.
select mt.model_id, k.position, case when k.axis = 'rows' then p.rows else p.columns end
from axes k
join model_tensor mt on mt.canonical_key = k.key
join members m on m.model_id = mt.model_id
join profile p
    on p.tensor_id = mt.tensor_id
    and coalesce(octet_length(p.rows) = 2 * mt.shape[1], p.rows is null)
    and coalesce(octet_length(p.columns) = 2 * mt.shape[2], p.columns is null)
order by mt.model_id, k.position;
