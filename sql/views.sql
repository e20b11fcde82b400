-- The views that users query. Their columns are a promise: tests hold the names and types.

-- name: macro_versions
-- The versions of the algorithms whose rows this megasim reads and makes: tests hold them equal to
-- those of the code.
-- Not a promise: what users query is the views.
create or replace macro current_fingerprint() as 4;
-- version 3 lacks profiles alone: its hashes, norms and sketches are those of 4
create or replace macro is_comparable(version) as coalesce(version in (3, 4), false);
create or replace macro current_metric() as 1;
create or replace macro current_rename() as 3;

-- name: macro_tensor_digest
-- A text that changes with anything that is kept of a content but its sketch.
-- Not a promise: what users query is layers.
create or replace macro tensor_digest(
    content_hash, value_hash, fp16_hash, bf16_hash, dtype, numel, l1, l2, linf, mean, std, kurtosis,
    zeros, nans, infs, is_constant
) as md5(concat_ws(
    ' ', content_hash, value_hash, fp16_hash, bf16_hash, dtype, numel::bigint,
    coalesce(l1::double::varchar, '-'), coalesce(l2::double::varchar, '-'),
    coalesce(linf::double::varchar, '-'), coalesce(mean::double::varchar, '-'),
    coalesce(std::double::varchar, '-'), coalesce(kurtosis::double::varchar, '-'),
    zeros::bigint, nans::bigint, infs::bigint, is_constant::boolean
));

-- name: view_contents_digests
-- For each model a text that changes with anything that it holds, or that could not be read of it.
-- Hashes of what it holds are added up, so that nothing has to be sorted, or held at once.
-- Not a promise: what users query is layers.
create or replace view contents_digests as
select
    model_id,
    md5(concat_ws(' ', count(*), sum(md5_number_lower(told)), sum(md5_number_upper(told)))) as digest
from (
    select
        mt.model_id,
        concat_ws(
            chr(9), mt.key, mt.sources::varchar, mt.transposed, mt.canonical_key, mt.canonical_shape,
            mt.shape::varchar, mt.component, coalesce(mt.block, '-'), coalesce(mt.role, '-'),
            coalesce(mt.nature, '-'), coalesce(mt.representation, '-'), t.content_hash
        ) as told
    from model_tensor mt
    left join tensor t on t.id = mt.tensor_id
    union all
    select
        model_id,
        concat_ws(
            chr(9), key, canonical_key, component, reason, coalesce(dtype, '-'),
            coalesce(shape::varchar, '-'), coalesce(digest, '-')
        )
    from unread_key
    union all
    select
        model_id,
        concat_ws(
            chr(9), key, sources::varchar, transposed, canonical_key, canonical_shape, shape::varchar,
            component, coalesce(block, '-'), coalesce(role, '-'), coalesce(nature, '-'), dtype, numel,
            sampled, coalesce(content_hash, '-')
        )
    from listed_key
    union all
    select model_id, concat_ws(chr(9), key, tied_to) from tied_key
    union all
    select model_id, concat_ws(chr(9), place, role, tensors, coalesce(digest, '-')) from beside
)
group by model_id;

-- name: view_held_keys
-- One row for each key of each model, whatever was read of it: of a header nothing but what it says.
-- Not a promise: what users query is layers.
create or replace view held_keys as
select
    mt.model_id,
    mt.canonical_key,
    mt.canonical_shape,
    mt.key,
    mt.sources,
    mt.transposed,
    mt.shape,
    mt.component,
    mt.block,
    mt.role,
    mt.nature,
    t.dtype,
    t.numel,
    t.numel              as sampled,
    t.content_hash,
    t.nans + t.infs = 0  as is_finite,
    t.l2,
    mt.representation
from model_tensor mt
join tensor t on t.id = mt.tensor_id
union all
select
    model_id, canonical_key, canonical_shape, key, sources, transposed, shape, component, block,
    role, nature, dtype, numel, sampled, content_hash, coalesce(non_finite, 0) = 0, l2,
    representation
from listed_key;

-- name: view_keyless_models
-- Models that were fingerprinted and of which no key is left: the store was damaged.
create or replace view keyless_models as
select m.id
from model m
where m.source in ('checkpoint', 'fingerprints')
    and m.fingerprint_version is not null
    and m.id not in (select model_id from model_tensor)
    and m.id not in (select model_id from listed_key)
    and m.id not in (select model_id from unread_key);

-- name: macro_are_apart
-- Whether two sums differ by more than the order in which they were added up.
-- Not a promise: what users query is the views.
create or replace macro are_apart(x, y) as
    coalesce(
        isnan(x) <> isnan(y) or abs(x - y) > 1e-9 * greatest(abs(x), abs(y)),
        (x is null) <> (y is null)
    );

-- name: macro_is_measured
-- Whether a key of this nature enters distances, norms, recipes and maps: learned weights, the
-- statistics of normalisation layers, and keys of stores that knew no natures. The rest (counters,
-- indices, masks, schedules, codes and their scales, integers of unknown use) is compared key by key.
-- Not a promise: what users query is layer_distances.
create or replace macro is_measured(nature) as
    coalesce(nature in ('weight', 'statistic'), true);

-- name: macro_layer_value
-- What a layer counts as in a metric, given its status, what was measured of it, and what equals
-- have: nothing where either side holds NaN or inf.
-- Not a promise: what users query is layer_distances.
create or replace macro layer_value(status, has_non_finite, measured, of_equals) as
case
    when has_non_finite then null
    when status in ('identical', 'same_values') then of_equals
    else measured
end;

-- name: macro_proven_source
-- Where a distance comes from: one that equal hashes prove to be 0 is no estimate.
-- Not a promise: what users query is component_distances.
create or replace macro proven_source(source, keys_compared, identical, same_values) as
    if(
        source = 'estimated' and keys_compared > 0
            and coalesce(keys_compared = identical + same_values, false),
        'exact',
        source
    );

-- name: view_models
-- One row for each model.
create or replace view models as
select
    m.name,
    m.source,
    m.family,
    m.variant,
    m.layout,
    m.format,
    m.path,
    m.bytes,
    k.keys,
    k.parameters,
    k.components,
    k.dtypes,
    try_cast(m.metadata ->> 'epoch' as bigint)       as epoch,
    try_cast(m.metadata ->> 'global_step' as bigint) as global_step,
    m.metadata,
    m.skipped,
    m.ingested_at,
    m.part,
    m.part_role,
    f.name                                           as file_model,
    coalesce(u.unread, 0)                            as unread,
    m.fingerprint_version,
    coalesce(e.beside, [])                           as beside,
    if(m.source = 'imported', null, coalesce(m.tier, 'full')) as tier,
    k.sampled
from model m
left join model f on f.id = m.file_model_id
left join (select model_id, count(*) as unread from unread_key group by model_id) u
    on u.model_id = m.id
left join (
    select model_id, list(distinct role order by role) as beside from beside group by model_id
) e on e.model_id = m.id
left join (
    select
        model_id,
        count(*)                                    as keys,
        sum(numel)::bigint                          as parameters,
        sum(sampled)::bigint                        as sampled,
        list(distinct component order by component) as components,
        list(distinct dtype order by dtype)         as dtypes
    from held_keys
    group by model_id
) k on k.model_id = m.id;

-- name: view_layers
-- One row for each key of each model.
create or replace view layers as
select
    m.name as model,
    mt.key,
    mt.canonical_key,
    mt.component,
    mt.block,
    mt.role,
    t.dtype,
    mt.shape,
    t.numel,
    t.l1,
    t.l2,
    t.linf,
    t.mean,
    t.std,
    t.kurtosis,
    t.zeros,
    t.nans,
    t.infs,
    t.is_constant,
    t.content_hash,
    t.value_hash,
    t.fp16_hash,
    t.bf16_hash,
    mt.nature,
    mt.representation
from model_tensor mt
join model m on m.id = mt.model_id
join tensor t on t.id = mt.tensor_id;

-- name: view_named_pair
-- The pairs asked for, with the names of both models: a filter on a name reaches this small table
-- first, and only the layers of its pairs are looked up.
-- Not a promise: what users query is layer_distances.
create or replace view named_pair as
select p.*, a.name as name_a, b.name as name_b
from model_pair p
join model a on a.id = p.model_a
join model b on b.id = p.model_b
-- what was not read in full is not there to be aligned: its keys are in sampled_distance
where coalesce(a.tier, 'full') = 'full' and coalesce(b.tier, 'full') = 'full';

-- name: view_aligned_layers
-- One row for each pair asked for and key of either, the two sides side by side, by id.
-- Not a promise: what users query is layer_distances.
create or replace view aligned_layers as
select
    p.model_a,
    p.model_b,
    a.canonical_key,
    a.key        as key_a,
    b.key        as key_b,
    a.component,
    a.block,
    a.role,
    a.tensor_id  as tensor_a,
    b.tensor_id  as tensor_b,
    a.canonical_shape as shape_a,
    b.canonical_shape as shape_b,
    a.shape[1]   as rows,
    a.nature,
    is_measured(a.nature) and is_measured(b.nature) as is_measured,
    p.name_a,
    p.name_b,
    p.done,
    p.linf       as with_linf,
    p.cossim     as with_cossim
from named_pair p
join model_tensor a on a.model_id = p.model_a
left join renamed_key r
    on r.model_a = p.model_a and r.model_b = p.model_b and r.key_a = a.canonical_key
left join model_tensor b
    on b.model_id = p.model_b and b.canonical_key = coalesce(r.key_b, a.canonical_key)
union all
select
    p.model_a,
    p.model_b,
    b.canonical_key,
    null,
    b.key,
    b.component,
    b.block,
    b.role,
    null,
    b.tensor_id,
    null,
    b.canonical_shape,
    null,
    b.nature,
    is_measured(b.nature),
    p.name_a,
    p.name_b,
    p.done,
    p.linf,
    p.cossim
from named_pair p
join model_tensor b on b.model_id = p.model_b
left join renamed_key r
    on r.model_a = p.model_a and r.model_b = p.model_b and r.key_b = b.canonical_key
left join model_tensor a
    on a.model_id = p.model_a and a.canonical_key = coalesce(r.key_a, b.canonical_key)
where a.model_id is null;

-- name: view_judged_layers
-- The status of each aligned layer, by id.
-- Not a promise: what users query is layer_distances.
create or replace view judged_layers as
select
    l.*,
    ta.numel,
    ta.nans + ta.infs + tb.nans + tb.infs > 0 as has_non_finite,
    case
        when l.tensor_a is null then 'missing_a'
        when l.tensor_b is null then 'missing_b'
        when l.shape_a <> l.shape_b then 'shape_mismatch'
        when l.tensor_a = l.tensor_b then 'identical'
        when ta.nans + ta.infs + tb.nans + tb.infs > 0 then 'non_finite'
        when ta.value_hash = tb.value_hash then 'same_values'
        -- beyond 65504 float16 is infinite, and infinities are no evidence
        when ta.fp16_hash = tb.fp16_hash and greatest(ta.linf, tb.linf) <= 65504
            then 'same_at_fp16'
        when ta.bf16_hash = tb.bf16_hash then 'same_at_bf16'
        else 'changed'
    end as status
from aligned_layers l
left join tensor ta on ta.id = l.tensor_a
left join tensor tb on tb.id = l.tensor_b;

-- name: view_layer_rows
-- The status and distances of each aligned layer, by id.
-- Not a promise: what users query is layer_distances.
create or replace view layer_rows as
select
    j.model_a,
    j.model_b,
    j.canonical_key,
    j.key_a,
    j.key_b,
    j.component,
    j.block,
    j.role,
    j.status,
    j.numel,
    layer_value(j.status, j.has_non_finite, d.l0, 0)                              as l0,
    layer_value(j.status, j.has_non_finite, d.l1, 0)                              as l1,
    layer_value(j.status, j.has_non_finite, d.l2, 0)                              as l2,
    layer_value(j.status, j.has_non_finite, x.linf, if(j.with_linf, 0, null))     as linf,
    layer_value(j.status, j.has_non_finite, c.cossim, if(j.with_cossim, 1, null)) as cossim,
    'exact' as source,
    null::varchar as origin,
    j.nature,
    j.name_a,
    j.name_b
from judged_layers j
left join tensor_distance d
    on d.tensor_a = least(j.tensor_a, j.tensor_b)
    and d.tensor_b = greatest(j.tensor_a, j.tensor_b)
    and j.status in ('same_at_fp16', 'same_at_bf16', 'changed')
left join tensor_linf x
    on x.tensor_a = least(j.tensor_a, j.tensor_b)
    and x.tensor_b = greatest(j.tensor_a, j.tensor_b)
    and j.status in ('same_at_fp16', 'same_at_bf16', 'changed')
left join tensor_cossim c
    on c.tensor_a = least(j.tensor_a, j.tensor_b)
    and c.tensor_b = greatest(j.tensor_a, j.tensor_b)
    and c.rows = coalesce(j.rows, 1)
    and j.status in ('same_at_fp16', 'same_at_bf16', 'changed')
where j.done
union all
select
    i.model_a,
    i.model_b,
    i.canonical_key,
    i.key_a,
    i.key_b,
    i.component,
    i.block,
    i.role,
    i.status,
    null,
    null,
    null,
    i.l2,
    null,
    null,
    'imported',
    i.origin,
    i.nature,
    a.name,
    b.name
from imported_layer i
join model a on a.id = i.model_a
join model b on b.id = i.model_b
union all
select
    d.model_a,
    d.model_b,
    d.canonical_key,
    ka.key,
    kb.key,
    ka.component,
    ka.block,
    ka.role,
    d.status,
    d.sampled,
    d.l0,
    if(d.status = 'same_in_sample' or d.sampled < ka.numel, null, d.l1),
    d.whole_l2,
    null,
    null,
    'estimated',
    null,
    ka.nature,
    a.name,
    b.name
from sampled_distance d
join model_pair p on p.model_a = d.model_a and p.model_b = d.model_b and p.done
join model a on a.id = d.model_a
join model b on b.id = d.model_b
join held_keys ka on ka.model_id = d.model_a and ka.canonical_key = d.canonical_key
join held_keys kb on kb.model_id = d.model_b and kb.canonical_key = d.canonical_key;

-- name: view_layer_distances
-- One row for each compared pair and canonical key.
create or replace view layer_distances as
select
    name_a as model_a,
    name_b as model_b,
    * exclude (model_a, model_b, name_a, name_b)
from layer_rows;

-- name: view_component_distances
-- One row for each pair and component, from the best source there is.
create or replace view component_distances as
select
    a.name as model_a,
    b.name as model_b,
    c.* exclude (model_a, model_b, version) replace (
        proven_source(c.source, c.keys_compared, c.identical, c.same_values) as source
    )
from component_distance c
join model a on a.id = c.model_a
join model b on b.id = c.model_b;

-- name: comment_views
-- What each view and column means, for `describe` and for people.
comment on view models is 'One row for each model in the store.';
comment on column models.name is 'The unique name of the model.';
comment on column models.source is 'checkpoint: fingerprinted here; imported: known from published distances; fingerprints: known from a fingerprint file.';
comment on column models.family is 'SD1, SD2, SDXL, SDXL refiner, SD3, Flux, VAE (one alone) or generic; NULL when imported.';
comment on column models.variant is 'inpainting, depth, …; empty for the plain model.';
comment on column models.layout is 'How the keys are named: ldm, novelai, diffusers, ….';
comment on column models.format is 'safetensors, torch-zip, torch-legacy, torchscript, sharded, diffusers.';
comment on column models.path is 'Where the file or folder was last seen.';
comment on column models.bytes is 'Size of its files.';
comment on column models.keys is 'How many tensors it has; NULL when imported.';
comment on column models.parameters is 'How many elements its tensors have together.';
comment on column models.components is 'The components it has, in alphabetical order.';
comment on column models.dtypes is 'The dtypes of its tensors, in alphabetical order.';
comment on column models.epoch is 'As its metadata claims.';
comment on column models.global_step is 'As its metadata claims.';
comment on column models.metadata is 'All metadata of the file, as JSON: claims, not facts.';
comment on column models.skipped is 'Keys that hold no comparable tensor, with the reason, as JSON.';
comment on column models.ingested_at is 'When it was fingerprinted or imported (UTC).';

comment on column models.part is 'Which state dict of its file it is; empty for the first or only one.';
comment on column models.part_role is 'weights, ema, teacher, discriminator, adapter or other.';
comment on column models.file_model is 'For a further part of a file: the name of the model that is its first part.';
comment on column models.unread is 'How many of its tensors could not be read. See the table unread_key.';
comment on column models.fingerprint_version is 'The version of megasim''s fingerprints that it was read with.';
comment on column models.tier is 'How much was read: header, sample (of large tensors some elements, the same in every model) or full; NULL when imported.';
comment on column models.sampled is 'How many of its elements were read.';
comment on column models.beside is 'What else its file contains, which is not compared: optimizer, callback, ….';

comment on view layers is 'One row for each model and key.';
comment on column layers.model is 'Name of the model.';
comment on column layers.key is 'The key as in the file; keys fused into one tensor are joined by '' + ''.';
comment on column layers.canonical_key is 'The key in the single-file form of its family, after known layouts are undone.';
comment on column layers.component is 'unet, transformer, text_encoder, vae_encoder, vae_decoder, vae_quant, ema, training_state, other, ….';
comment on column layers.block is 'The unit people merge by: IN00–IN11, M00, OUT00–OUT11; layer numbers elsewhere.';
comment on column layers.role is 'attn1, attn2, ff, norm, proj, emb_layers, conv, ….';
comment on column layers.dtype is 'As stored in the file; float32 for decoded values, see representation.';
comment on column layers.shape is 'As stored in the file.';
comment on column layers.numel is 'How many elements.';
comment on column layers.l1 is 'Sum of absolute values; NULL with NaN or inf.';
comment on column layers.l2 is 'Euclidean norm; NULL with NaN or inf.';
comment on column layers.linf is 'Largest absolute value; NULL with NaN or inf.';
comment on column layers.mean is 'Mean of the elements.';
comment on column layers.std is 'Population standard deviation.';
comment on column layers.kurtosis is 'Excess kurtosis; 0 for a normal distribution.';
comment on column layers.zeros is 'How many elements are 0.';
comment on column layers.nans is 'How many elements are NaN.';
comment on column layers.infs is 'How many elements are infinite.';
comment on column layers.is_constant is 'Whether all elements are equal: no evidence of kinship.';
comment on column layers.content_hash is 'BLAKE3 over dtype and raw bytes; of decoded values over all that is stored.';
comment on column layers.value_hash is 'Equal for equal numbers, whatever the dtype.';
comment on column layers.fp16_hash is 'Equal for tensors that are equal once rounded to float16.';
comment on column layers.bf16_hash is 'Equal for tensors that are equal once rounded to bfloat16.';
comment on column layers.nature is 'weight, statistic, counter, index, mask, scale, code, schedule or unknown; NULL if the model was read by a version that did not know natures.';
comment on column layers.representation is 'How its bytes represent values: plain, or the name of a scheme, as bitsandbytes nf4; NULL if not known.';

comment on view layer_distances is 'One row for each compared pair and canonical key. Each pair appears once, with the model that was ingested first as model_a: look for a model in both columns.';
comment on column layer_distances.model_a is 'The model of the pair that was ingested first.';
comment on column layer_distances.model_b is 'The other model.';
comment on column layer_distances.canonical_key is 'The key of the tensor that both have, as model_a names it.';
comment on column layer_distances.key_a is 'The key in the file of a; NULL where a lacks it.';
comment on column layer_distances.key_b is 'The key in the file of b; NULL where b lacks it.';
comment on column layer_distances.component is 'The component it belongs to.';
comment on column layer_distances.block is 'The unit people merge by.';
comment on column layer_distances.role is 'attn1, attn2, ff, norm, ….';
comment on column layer_distances.status is 'identical, same_values, same_at_fp16, same_at_bf16, changed, missing_a, missing_b, shape_mismatch, non_finite or same_in_sample (equal in all elements that were read).';
comment on column layer_distances.numel is 'How many elements were compared: of a sample those that were read; NULL when imported.';
comment on column layer_distances.l0 is 'How many of these differ; NULL where there is no distance.';
comment on column layer_distances.l1 is 'Sum of absolute differences; NULL of a sample.';
comment on column layer_distances.l2 is 'Root of the sum of squared differences; of a sample an estimate for the whole tensor, see the table sampled_distance for its error.';
comment on column layer_distances.linf is 'Largest absolute difference; NULL if it was not computed.';
comment on column layer_distances.cossim is 'Mean cosine similarity of the columns; NULL if it was not computed.';
comment on column layer_distances.source is 'exact: computed here from the weights; imported: published by others; estimated: from a sample.';
comment on column layer_distances.origin is 'The published file of an imported distance.';
comment on column layer_distances.nature is 'What the key is, as in layers. Weights and statistics enter the distances of components.';

comment on view component_distances is 'One row for each pair and component. Each pair appears once, with the model that was ingested first as model_a: look for a model in both columns.';
comment on column component_distances.model_a is 'The model of the pair that was ingested first.';
comment on column component_distances.model_b is 'The other model.';
comment on column component_distances.component is 'The component; vae where only the whole was measured.';
comment on column component_distances.source is 'exact: computed here from the weights, or proved by their hashes; imported: published by others; estimated: from the sketches, or from samples where a model was not read in full.';
comment on column component_distances.origin is 'The published file of an imported distance.';
comment on column component_distances.unproven is 'True for a published 0 that may mean identical or not compared.';
comment on column component_distances.keys_compared is 'How many keys of both models were compared; NULL where the source does not say.';
comment on column component_distances.identical is 'Of them: same dtype and bytes.';
comment on column component_distances.same_values is 'Of them: the same numbers in another dtype.';
comment on column component_distances.same_at_fp16 is 'Of them: equal once rounded to float16.';
comment on column component_distances.same_at_bf16 is 'Of them: equal once rounded to bfloat16.';
comment on column component_distances.changed is 'Of them: different.';
comment on column component_distances.renamed is 'Of them: found under another name in the other model.';
comment on column component_distances.missing_a is 'Keys that a lacks.';
comment on column component_distances.missing_b is 'Keys that b lacks.';
comment on column component_distances.shape_mismatch is 'Keys of another shape, not compared.';
comment on column component_distances.non_finite is 'Keys with NaN or inf, without a distance.';
comment on column component_distances.l0 is 'How many elements differ.';
comment on column component_distances.l1 is 'Sum of absolute differences.';
comment on column component_distances.l2 is 'Root of the sum of squared differences.';
comment on column component_distances.linf is 'Largest absolute difference; NULL if it was not computed.';
comment on column component_distances.cossim is 'Mean over the keys of their column-wise cosine similarity; NULL if it was not computed.';
comment on column component_distances.l2_error is 'Standard error of l2: 0 where exact or imported; NULL where samples show no difference, for then nothing tells it.';
comment on column component_distances.coverage is 'Keys compared over all keys of the component in either model, 0 to 1.';
comment on column component_distances.keys_measured is 'Of the keys compared: those that l0 to cossim are taken over (weights and statistics; no counters, indices, masks, schedules, codes or scales). NULL where the source does not say.';
comment on column component_distances.same_in_sample is 'Of the keys compared: equal in all elements that were read, which are not all. NULL where both models were read in full.';
comment on column component_distances.keys_unread is 'Keys of both in one shape, of which only the header of one was read. NULL where both models were read in full.';
