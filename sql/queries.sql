-- The statements that megasim itself runs. Python calls them by name.
-- A name in braces is a table that the caller registers for the time of one call.

-- name: hide_progress_bar
-- No bar of the database's own, which it prints over what a program or `python -c` prints.
set enable_progress_bar = false;

-- name: begin_reading
-- From here on the store is read as it is now, and cannot be changed.
begin transaction read only;

-- name: schema_version
-- The newest migration that ran.
select max(version) from schema_version;

-- name: table_count
-- Whether a database is empty.
select count(*) from duckdb_tables() where not internal;

-- name: add_schema_version
-- A migration has run.
insert into schema_version values ($1, $2);

-- name: content_digest
-- A text that changes with the models, what they hold, and what is known of their pairs.
select concat_ws(
    ' ',
    (select bit_xor(hash(m)) from model as m),
    (select bit_xor(hash(t)) from model_tensor as t),
    (select bit_xor(hash(p)) from model_pair as p),
    (select bit_xor(hash(c)) from component_distance as c),
    (select coalesce(bit_xor(hash(k)), 0) from known_component as k)
);

-- name: views_text
-- The views as they stand in the store.
select text from view_text;

-- name: forget_views
-- The views are about to be made anew.
delete from view_text;

-- name: remember_views
-- The views as they stand now.
insert into view_text values ($1);

-- name: models
-- All models, or those called $names, or with the $ids, in the order they came.
select
    id, name, source, path, format, bytes, mtime_ns, header_hash, family, variant, layout,
    metadata::varchar as metadata, skipped::varchar as skipped, fingerprint_version,
    sketch_size, coalesce(part, '') as part, coalesce(part_role, 'weights') as part_role,
    file_model_id, coalesce(tier, 'full') as tier, sample_level
from model
where ($names::varchar[] is null or list_contains($names::varchar[], name))
    and ($ids::integer[] is null or list_contains($ids::integer[], id))
order by id;

-- name: models_of_role
-- The models that are of one role of a part.
select name from model where coalesce(part_role, 'weights') = $role order by id;

-- name: models_below_full
-- The models that were not read in full.
select id from model where tier in ('header', 'sample') order by id;

-- name: model_names
-- The names and ids of all models, or of those called $names, in the order they came.
select name, id
from model
where $names::varchar[] is null or list_contains($names::varchar[], name)
order by id;

-- name: names_of_models
-- What some models are called.
select m.id, m.name from model m join batch b on b.model_id = m.id order by m.id;

-- name: outdated_paths
-- The files of checkpoints that were read with fingerprints of another version.
select distinct path
from model
where source = 'checkpoint' and path is not null and fingerprint_version is distinct from $version
order by path;

-- name: ingest_times
-- When each model was ingested, in seconds since 1970.
select id, epoch(ingested_at) from model where ingested_at is not null;

-- name: contents_of_keys
-- The contents that a model holds, and the keys of its file that each is under; of a sample those of
-- what was read.
select sources, transposed, content_hash
from held_keys
where model_id = $id
order by canonical_key;

-- name: key_sets
-- Which of some models (batch) have the very same canonical keys: their set has one hash.
select mt.model_id, md5(string_agg(canonical_key, chr(10) order by canonical_key)) as key_set
from model_tensor mt
join batch b on b.model_id = mt.model_id
group by mt.model_id;

-- name: model_keys
-- What a model holds, as renames are sought in it.
select
    mt.canonical_key,
    mt.canonical_shape,
    t.value_hash,
    -- beyond 65504 float16 is infinite, and infinities are no evidence
    case when t.linf <= 65504 then t.fp16_hash end as fp16_hash,
    case when t.linf is not null then t.bf16_hash end as bf16_hash,
    t.is_constant or t.numel < 64 as trivial,
    t.is_constant or t.numel < 8 as plain,
    t.l2
from model_tensor mt
join tensor t on t.id = mt.tensor_id
where mt.model_id = $id
order by mt.canonical_key;

-- name: pairs
-- The pairs asked for so far.
select model_a, model_b, done, linf, cossim, rename_version from model_pair order by model_a, model_b;

-- name: add_pairs
-- Pairs asked for now, nothing of them done.
insert into model_pair
select b.model_a, b.model_b, false, false, false, current_metric(), current_rename()
from batch b
anti join model_pair p on p.model_a = b.model_a and p.model_b = b.model_b
order by all;

-- name: add_renames
-- Renames of pairs asked for now.
insert into rename
select model_a, model_b, prefix_a, prefix_b, keys, support, basis from batch order by all;

-- name: add_renamed_keys
-- The keys that these renames bring together.
insert into renamed_key select model_a, model_b, key_a, key_b from batch order by all;

-- name: renames
-- The renames found so far.
select
    a.name as model_a, b.name as model_b, r.prefix_a, r.prefix_b, r.keys, r.support, r.basis
from rename r
join model a on a.id = r.model_a
join model b on b.id = r.model_b
order by r.model_a, r.model_b, r.prefix_a, r.prefix_b;

-- name: keys_to_plan
-- The keys of some models, and how many elements there are under each.
with held as (
    select distinct mt.canonical_key, mt.tensor_id
    from model_tensor mt
    join chosen c on c.model_id = mt.model_id
)
select h.canonical_key, sum(t.numel)::bigint as elements
from held h
join tensor t on t.id = h.tensor_id
group by h.canonical_key
order by h.canonical_key;

-- name: begin_plan
-- Contents that stand under more than one key or shape. A pair of one of them, or of renamed keys,
-- may be met several times, and is noted so that it is planned once; any other is met only once.
-- {batch} are those noted before the store was last opened.
create or replace temp table many_keyed as
select tensor_id
from model_tensor
group by tensor_id
having min(canonical_key) <> max(canonical_key)
    or min(canonical_shape) <> max(canonical_shape);
create or replace temp table ambiguous as
select tensor_a::integer as tensor_a, tensor_b::integer as tensor_b, rows::bigint as rows from batch;

-- name: plan_keys
-- The pairs of contents under some keys that still lack a distance, each once; for cossim, once for
-- each number of rows, which a content met under two shapes has two of.
create or replace temp table work as
with finite as (
    select
        mt.model_id, mt.canonical_key, mt.canonical_shape, mt.shape, mt.tensor_id, t.value_hash,
        t.numel
    from model_tensor mt
    join tensor t on t.id = mt.tensor_id
    where t.nans + t.infs = 0
        -- factors of adapters are never compared, only the changes that they make
        and mt.nature is distinct from 'change'
        -- these keys, and what b calls them
        and mt.canonical_key in (
            select canonical_key from keys
            union
            select r.key_b from renamed_key r join keys k on k.canonical_key = r.key_a
        )
),
-- as the view aligned_layers pairs them, but only of these keys
both_sides as (
    select
        a.canonical_key,
        a.tensor_id           as tensor_a,
        b.tensor_id           as tensor_b,
        a.canonical_shape     as shape_a,
        b.canonical_shape     as shape_b,
        a.value_hash          as value_a,
        b.value_hash          as value_b,
        a.shape[1]            as rows,
        a.numel,
        r.key_a is not null   as renamed
    from keys k
    join finite a on a.canonical_key = k.canonical_key
    join batch p on p.model_a = a.model_id
    left join renamed_key r
        on r.model_a = p.model_a and r.model_b = p.model_b and r.key_a = a.canonical_key
    join finite b
        on b.model_id = p.model_b and b.canonical_key = coalesce(r.key_b, a.canonical_key)
),
met as (
    select
        least(l.tensor_a, l.tensor_b)    as tensor_a,
        greatest(l.tensor_a, l.tensor_b) as tensor_b,
        min(coalesce(l.rows, 1))         as rows,
        any_value(l.numel)               as numel,
        min(l.canonical_key)             as canonical_key,
        bool_or(l.renamed)               as renamed
    from both_sides l
    where l.shape_a = l.shape_b
        and l.tensor_a <> l.tensor_b
        and l.value_a <> l.value_b
    group by
        least(l.tensor_a, l.tensor_b),
        greatest(l.tensor_a, l.tensor_b),
        case when $cossim then coalesce(l.rows, 1) end
)
select
    m.tensor_a,
    m.tensor_b,
    m.rows,
    m.numel,
    m.canonical_key,
    m.renamed
        or m.tensor_a in (from many_keyed)
        or m.tensor_b in (from many_keyed) as is_ambiguous,
    n.rows is null and d.tensor_a is null           as needs_distance,
    n.rows is null and $linf and x.tensor_a is null as needs_linf,
    $cossim and c.tensor_a is null                  as needs_cossim
from met m
left join (select tensor_a, tensor_b, list(rows) as rows from ambiguous group by all) n
    on n.tensor_a = m.tensor_a and n.tensor_b = m.tensor_b
left join tensor_distance d on d.tensor_a = m.tensor_a and d.tensor_b = m.tensor_b
left join tensor_linf x on x.tensor_a = m.tensor_a and x.tensor_b = m.tensor_b
left join tensor_cossim c
    on c.tensor_a = m.tensor_a and c.tensor_b = m.tensor_b and c.rows = m.rows
where (n.rows is null or not list_contains(n.rows, m.rows))
    and (needs_distance or needs_linf or needs_cossim);

-- name: remember_ambiguous
-- Do not plan these again under another key. Of the numbers of rows of one pair, the smallest brings
-- what does not depend on them.
update work w
set needs_distance = false, needs_linf = false
from work f
where w.is_ambiguous and f.is_ambiguous
    and f.tensor_a = w.tensor_a and f.tensor_b = w.tensor_b and f.rows < w.rows;
insert into ambiguous select tensor_a, tensor_b, rows from work where is_ambiguous;

-- name: ambiguous_work
-- Those of the planned pairs that are noted.
select tensor_a, tensor_b, rows from work where is_ambiguous;

-- name: planned_work
-- The planned pairs; those of one position are computed side by side.
select
    (dense_rank() over (
        order by canonical_key, rows, numel, needs_distance, needs_linf, needs_cossim
    ))::integer as position,
    tensor_a, tensor_b, rows, needs_distance, needs_linf, needs_cossim
from work
where needs_distance or needs_linf or needs_cossim
order by position, tensor_a, tensor_b;

-- name: holders_of
-- For each content, the first of the readable models that holds it, and under which keys.
select mt.tensor_id, mt.model_id, mt.sources, mt.transposed
from model_tensor mt
join batch b on b.tensor_id = mt.tensor_id
join readable r on r.model_id = mt.model_id
qualify row_number() over (
    partition by mt.tensor_id order by mt.model_id, mt.canonical_key
) = 1
order by mt.tensor_id;

-- name: add_distances
-- Distances as they come in.
insert into tensor_distance
select tensor_a, tensor_b, l0, l1, l2, current_metric() from batch order by tensor_a, tensor_b;

-- name: add_linfs
-- Largest differences as they come in.
insert into tensor_linf
select tensor_a, tensor_b, linf, current_metric() from batch order by tensor_a, tensor_b;

-- name: add_cossims
-- Cosine similarities as they come in.
insert into tensor_cossim
select tensor_a, tensor_b, rows, cossim, current_metric()
from batch
order by tensor_a, tensor_b, rows;

-- name: add_roundings
-- How plain contents lie to the codes of quantised ones, as they come in.
insert into tensor_rounding
select tensor_a, tensor_b, measured, within, excess, basis, proving, current_metric()
from batch
order by tensor_a, tensor_b;

-- name: changed_of_coded_pairs
-- What differs in pairs of models (batch) of which one holds quantised tensors, whether it is one
-- of them, and how the plain values lie to their codes. Lists of ids reach the tables below the
-- view, which a join does not.
with changed as materialized (
    select l.model_a, l.model_b, l.canonical_key, l.key_a, l.key_b, l.block
    from judged_layers l
    where list_contains($firsts, l.model_a)
        and list_contains($seconds, l.model_b)
        and (l.model_a, l.model_b) in (select model_a, model_b from batch)
        and l.status = 'changed'
        and l.is_measured
),
held as materialized (
    select
        mt.model_id, mt.key, mt.sources, mt.transposed, mt.tensor_id,
        mt.representation not in ('plain', 'weight_norm') or t.dtype like 'float8%' as is_coded
    from model_tensor mt
    join tensor t on t.id = mt.tensor_id
    where list_contains($firsts, mt.model_id) or list_contains($seconds, mt.model_id)
)
select
    l.model_a, l.model_b, a.sources, b.sources, a.transposed, b.transposed, l.block,
    a.tensor_id, b.tensor_id, a.is_coded <> b.is_coded as is_coded,
    r.measured, r.within, coalesce(r.basis, '') as basis
from changed l
join held a on a.model_id = l.model_a and a.key = l.key_a
join held b on b.model_id = l.model_b and b.key = l.key_b
left join tensor_rounding r
    on r.tensor_a = least(a.tensor_id, b.tensor_id) and r.tensor_b = greatest(a.tensor_id, b.tensor_id)
order by l.model_a, l.model_b, l.canonical_key;

-- name: add_proofs
-- Of which pairs of contents it is proved that one is made of the other, and with how many values;
-- of tensors that are plain in both, as norms that AWQ has scaled, for the first time.
update tensor_rounding r
set basis = b.basis, proving = b.proving
from batch b
where r.tensor_a = b.tensor_a and r.tensor_b = b.tensor_b;
insert into tensor_rounding
select tensor_a, tensor_b, proving, proving, 0, basis, proving, current_metric()
from batch
anti join tensor_rounding using (tensor_a, tensor_b)
order by tensor_a, tensor_b;

-- name: finish_pairs
-- All distances of these pairs are in.
update model_pair p
set
    done = true,
    linf = p.linf or $linf,
    cossim = p.cossim or $cossim,
    metric_version = current_metric()
from batch b
where p.model_a = b.model_a and p.model_b = b.model_b;

-- name: drop_weaker_components
-- What is known of these pairs from a weaker or older source gives way.
delete from component_distance c
using batch b
where c.model_a = b.model_a and c.model_b = b.model_b;

-- name: judge_pairs
-- The layers of finished pairs, whose first models are $first to $last: as constants they reach the
-- tables below the view, which a join does not.
create or replace temp table judged as
select
    j.model_a, j.model_b, j.canonical_key, j.component, j.status,
    coalesce(j.rows, 1)                        as rows,
    j.key_a <> j.key_b                         as renamed,
    least(j.tensor_a, j.tensor_b)              as tensor_low,
    greatest(j.tensor_a, j.tensor_b)           as tensor_high,
    j.has_non_finite,
    j.status in ('same_at_fp16', 'same_at_bf16', 'changed') as has_distance,
    has_distance or j.status in ('identical', 'same_values') as is_compared,
    j.is_measured and is_compared as is_measured
from judged_layers j
where j.model_a between $first and $last
    and (j.model_a, j.model_b) in (select model_a, model_b from batch);

-- name: measure_judged
-- Their distances. The outer joins of the view layer_rows would hash the whole of tensor_distance.
create or replace temp table measured as
select j.model_a, j.model_b, j.canonical_key, d.l0, d.l1, d.l2
from judged j
join tensor_distance d on d.tensor_a = j.tensor_low and d.tensor_b = j.tensor_high
where j.has_distance;
create or replace temp table measured_linf as
select j.model_a, j.model_b, j.canonical_key, d.linf
from judged j
join tensor_linf d on d.tensor_a = j.tensor_low and d.tensor_b = j.tensor_high
where j.has_distance;
create or replace temp table measured_cossim as
select j.model_a, j.model_b, j.canonical_key, d.cossim
from judged j
join tensor_cossim d
    on d.tensor_a = j.tensor_low and d.tensor_b = j.tensor_high and d.rows = j.rows
where j.has_distance;

-- name: sum_judged
-- Sum the judged layers up, component by component.
create or replace temp table summed as
with layer as (
    select
        j.*,
        not j.is_measured or j.has_non_finite                      as has_no_value,
        layer_value(j.status, has_no_value, d.l0, 0)                           as l0,
        layer_value(j.status, has_no_value, d.l1, 0)                           as l1,
        layer_value(j.status, has_no_value, d.l2, 0)                           as l2,
        layer_value(j.status, has_no_value, x.linf, if(p.linf, 0, null))       as linf,
        layer_value(j.status, has_no_value, c.cossim, if(p.cossim, 1, null))   as cossim
    from judged j
    join model_pair p using (model_a, model_b)
    left join measured d using (model_a, model_b, canonical_key)
    left join measured_linf x using (model_a, model_b, canonical_key)
    left join measured_cossim c using (model_a, model_b, canonical_key)
)
select
    l.model_a,
    l.model_b,
    l.component,
    'exact' as source,
    null as origin,
    false as unproven,
    count(*) filter (l.is_compared) as keys_compared,
    count(*) filter (l.status = 'identical') as identical,
    count(*) filter (l.status = 'same_values') as same_values,
    count(*) filter (l.status = 'same_at_fp16') as same_at_fp16,
    count(*) filter (l.status = 'same_at_bf16') as same_at_bf16,
    count(*) filter (l.status = 'changed') as changed,
    count(*) filter (l.renamed) as renamed,
    count(*) filter (l.status = 'missing_a') as missing_a,
    count(*) filter (l.status = 'missing_b') as missing_b,
    count(*) filter (l.status = 'shape_mismatch') as shape_mismatch,
    count(*) filter (l.status = 'non_finite') as non_finite,
    sum(l.l0)::bigint as l0,
    -- in a fixed order, so that the last digit is the same on every run
    sum(l.l1 order by l.canonical_key) as l1,
    sqrt(sum(l.l2 * l.l2 order by l.canonical_key)) as l2,
    max(l.linf) as linf,
    avg(l.cossim order by l.canonical_key) as cossim,
    case when sum(l.l2) is not null then 0 end as l2_error,
    keys_compared / count(*) as coverage,
    count(*) filter (l.is_measured) as keys_measured,
    current_metric() as version
from layer l
group by l.model_a, l.model_b, l.component;

-- name: add_summed_components
-- What was summed up of finished pairs, exact or by samples.
insert into component_distance by name
select * from summed order by model_a, model_b, component;

-- name: matrix_values
-- One value for each pair out of some components: l0 and l1 add, l2 is the root of the sum of
-- squares, linf the maximum, cossim the mean over keys. Where the whole was measured, its parts
-- are left aside. A pair of which a component was compared and has no value has none. Of one model
-- alone with $of, which is NULL for all pairs.
with member as (
    select
        c.* exclude (keys_measured) replace (
            proven_source(c.source, c.keys_compared, c.identical, c.same_values) as source
        ),
        -- published sums do not say what they were taken over
        coalesce(c.keys_measured, c.keys_compared) as keys_measured
    from component_distance c
    join batch b on b.component = c.component
    join chosen ca on ca.model_id = c.model_a
    join chosen cb on cb.model_id = c.model_b
    where $of::integer is null or $of in (c.model_a, c.model_b)
    qualify c.component = $whole
        or not bool_or(c.component = $whole) over (partition by c.model_a, c.model_b)
)
select
    c.model_a,
    c.model_b,
    case $metric
        when 'l0' then sum(c.l0)::double
        when 'l1' then sum(c.l1 order by c.component)
        when 'l2' then sqrt(sum(c.l2 * c.l2 order by c.component))
        when 'linf' then max(c.linf)
        when 'cossim' then sum(c.cossim * c.keys_measured order by c.component)
            / nullif(sum(c.keys_measured), 0)
    end as value,
    case max(case c.source when 'exact' then 0 when 'imported' then 1 else 2 end)
        when 0 then 'exact'
        when 1 then case when bool_or(c.unproven) then 'unproven' else 'imported' end
        else 'estimated'
    end as source,
    case when $metric = 'l2' then coalesce(
        sqrt(sum(power(c.l2 * c.l2_error, 2) order by c.component))
            / nullif(sqrt(sum(c.l2 * c.l2 order by c.component)), 0),
        0)
    else 0 end as error,
    coalesce(sum(c.keys_measured), 0)::bigint as keys_compared,
    sum(c.keys_compared) / nullif(sum(
        c.keys_compared + c.missing_a + c.missing_b + c.shape_mismatch + c.non_finite
    ), 0) as coverage
from member c
group by c.model_a, c.model_b
having value is not null
    and not bool_or(
        coalesce(c.keys_measured, 0) > 0
        and case $metric
            when 'l0' then c.l0 is null
            when 'l1' then c.l1 is null
            when 'l2' then c.l2 is null
            when 'linf' then c.linf is null
            else c.cossim is null
        end
    )
order by c.model_a, c.model_b;

-- name: keys_to_sample
-- What some models hold, whatever was read of them.
select
    model_id, canonical_key, sources, transposed, canonical_shape, numel, dtype,
    coalesce(content_hash, ''), is_finite
from held_keys
where model_id in (select model_id from batch)
order by model_id, canonical_key;

-- name: sampled_keys
-- The keys of pairs (batch) of which samples were compared: of those that are not done, the first.
select d.canonical_key, d.model_a, d.model_b
from sampled_distance d
join batch b on b.model_a = d.model_a and b.model_b = d.model_b;

-- name: add_sampled_distances
-- What samples say of keys of pairs.
insert into sampled_distance
select
    model_a, model_b, canonical_key, status, sampled, blocks, l0, l1, l2, whole_l2, l2_error
from batch
order by model_a, model_b, canonical_key;

-- name: sum_tiered
-- Sum up, component by component, what headers and samples say of pairs (batch). Squares of estimates add, and
-- so do the variances of squares, (2 · l2 · error)². Where no element that was read differs, there is
-- nothing to take an error from.
create or replace temp table summed as
with layer as (
    select
        p.model_a,
        p.model_b,
        coalesce(a.component, b.component)         as component,
        coalesce(a.canonical_key, b.canonical_key) as canonical_key,
        case
            when a.model_id is null then 'missing_a'
            when b.model_id is null then 'missing_b'
            when a.canonical_shape <> b.canonical_shape then 'shape_mismatch'
            else d.status -- none where only a header was read
        end as status,
        status in ('identical', 'same_values', 'changed', 'same_in_sample') as is_compared,
        is_compared and is_measured(a.nature) and is_measured(b.nature) as measured,
        if(measured, d.whole_l2, null) as l2,
        if(measured, d.l2_error, null) as l2_error
    from (
        select b.model_a, b.model_b, h.canonical_key
        from batch b
        join held_keys h on h.model_id in (b.model_a, b.model_b)
        group by all
    ) p
    left join held_keys a on a.model_id = p.model_a and a.canonical_key = p.canonical_key
    left join held_keys b on b.model_id = p.model_b and b.canonical_key = p.canonical_key
    left join sampled_distance d
        on d.model_a = p.model_a and d.model_b = p.model_b and d.canonical_key = p.canonical_key
)
select
    model_a,
    model_b,
    component,
    'estimated' as source,
    null as origin,
    false as unproven,
    count(*) filter (is_compared) as keys_compared,
    count(*) filter (status = 'identical') as identical,
    count(*) filter (status = 'same_values') as same_values,
    0 as same_at_fp16,
    0 as same_at_bf16,
    count(*) filter (status = 'changed') as changed,
    0 as renamed,
    count(*) filter (status = 'missing_a') as missing_a,
    count(*) filter (status = 'missing_b') as missing_b,
    count(*) filter (status = 'shape_mismatch') as shape_mismatch,
    count(*) filter (status = 'non_finite') as non_finite,
    count(*) filter (status = 'same_in_sample') as same_in_sample,
    count(*) filter (status is null) as keys_unread,
    sqrt(sum(l2 * l2 order by canonical_key)) as l2,
    case
        when sum(l2) > 0
            then sqrt(sum(power(2 * l2 * coalesce(l2_error, 0), 2) order by canonical_key))
                / (2 * sqrt(sum(l2 * l2 order by canonical_key)))
        when count(*) filter (status = 'same_in_sample') = 0 and sum(l2) is not null then 0
    end as l2_error,
    keys_compared / count(*) as coverage,
    count(*) filter (measured) as keys_measured,
    current_fingerprint() as version
from layer
group by model_a, model_b, component;

-- name: weight_values
-- One value for each compared pair out of the learned weights of some components alone: no
-- statistics of normalisation layers. Keys whose nature is not known yet count as weights. Lists reach
-- the tables below the view, which a join does not; and a sum in order keeps a copy of every row, which
-- the filters spare the metrics that are not asked for.
select
    l.model_a,
    l.model_b,
    case $metric
        when 'l0' then sum(l.l0)::double
        when 'l1' then sum(l.l1 order by l.canonical_key) filter ($metric = 'l1')
        when 'l2' then sqrt(sum(l.l2 * l.l2 order by l.canonical_key) filter ($metric = 'l2'))
        when 'linf' then max(l.linf)
        when 'cossim' then avg(l.cossim order by l.canonical_key) filter ($metric = 'cossim')
    end as value,
    max(l.source) as source,
    0.0 as error,
    count(l.l2) as keys_compared,
    count(l.l2) / count(*) as coverage
from layer_rows l
where list_contains($components, l.component)
    and list_contains($models, l.model_a)
    and list_contains($models, l.model_b)
    and coalesce(l.nature, 'weight') = 'weight'
group by l.model_a, l.model_b
having value is not null
order by l.model_a, l.model_b;

-- name: components
-- Which components the store knows, with how many models hold each; adapters hold changes only.
with held as (
    select h.component, h.model_id
    from held_keys h
    join model m on m.id = h.model_id
    where m.part_role is distinct from 'adapter'
    union
    select component, model_a from component_distance where source = 'imported'
    union
    select component, model_b from component_distance where source = 'imported'
)
select component, count(*) as models
from held
group by component
order by models desc, component;

-- name: holders
-- The models that hold any of some components, in the order they came; adapters hold changes only.
with held as (
    select h.model_id
    from held_keys h
    join batch b on b.component = h.component
    join model m on m.id = h.model_id
    where m.part_role is distinct from 'adapter'
    union
    select c.model_a
    from component_distance c
    join batch b on b.component = c.component
    where c.source = 'imported'
    union
    select c.model_b
    from component_distance c
    join batch b on b.component = c.component
    where c.source = 'imported'
)
select m.id, m.name
from held h
join model m on m.id = h.model_id
order by m.id;

-- name: add_group_pairs
-- Pairs that belong together.
insert into pair_group
select b.name, b.model_a, b.model_b
from batch b
anti join pair_group g
    on g.name = b.name and g.model_a = b.model_a and g.model_b = b.model_b
order by all;

-- name: groups
-- The groups and their pairs.
select name, model_a, model_b from pair_group order by name, model_a, model_b;

-- name: layer_keys
-- The keys of some components that some models hold, as the first of them has each.
with held as (
    select canonical_key, model_id, block, role, numel
    from held_keys
    where list_contains($components, component)
        and list_contains($models, model_id)
        and is_measured(nature)
        and not ($weights_only and coalesce(nature, 'weight') <> 'weight')
    union all
    select i.canonical_key, i.model_a, i.block, i.role, null
    from imported_layer i
    where list_contains($components, i.component)
        and is_measured(i.nature)
        and not ($weights_only and coalesce(i.nature, 'weight') <> 'weight')
        and list_contains($models, i.model_a)
        and list_contains($models, i.model_b)
)
select
    canonical_key,
    coalesce(arg_min(block, model_id), '') as block,
    coalesce(arg_min(role, model_id), '')  as role,
    coalesce(arg_min(numel, model_id), 0)  as numel
from held
group by canonical_key
order by canonical_key;

-- name: imported_cells
-- What others published of some layers of some models, or samples say of them. {keys}
select i.model_a, i.model_b, k.place, i.l2 as value
from imported_layer i
join keys k on k.canonical_key = i.canonical_key
where list_contains($components, i.component)
    and list_contains($models, i.model_a)
    and list_contains($models, i.model_b)
    and is_measured(i.nature)
    and i.l2 is not null
union all
select d.model_a, d.model_b, k.place, d.whole_l2
from sampled_distance d
join keys k on k.canonical_key = d.canonical_key
where list_contains($models, d.model_a)
    and list_contains($models, d.model_b)
    and d.whole_l2 is not null;

-- name: layer_cells
-- What is known of some layers of some first models with others. Lists of ids reach the tables below
-- the view, which a join does not; so does it that both sides are there. Inner joins build on the
-- layers: the outer joins of the view layer_rows would hash the whole of tensor_distance. {keys}
with judged as materialized (
    select
        j.model_a, j.model_b, k.place, j.with_linf, j.with_cossim,
        j.status in ('identical', 'same_values') as is_same,
        coalesce(j.rows, 1)                      as rows,
        least(j.tensor_a, j.tensor_b)            as tensor_low,
        greatest(j.tensor_a, j.tensor_b)         as tensor_high
    from judged_layers j
    join keys k on k.canonical_key = j.canonical_key
    where list_contains($firsts, j.model_a)
        and j.is_measured
        and list_contains($models, j.model_b)
        and list_contains($components, j.component)
        and j.tensor_a is not null
        and j.tensor_b is not null
        and j.done
        and not j.has_non_finite
        and j.status <> 'shape_mismatch'
)
select
    model_a, model_b, place, if($metric = 'cossim', 1, 0)::double as value, 0.0::double as l1
from judged
where is_same
    and case $metric when 'linf' then with_linf when 'cossim' then with_cossim else true end
union all
select
    j.model_a, j.model_b, j.place,
    case $metric when 'l0' then d.l0::double when 'l1' then d.l1 else d.l2 end,
    case when $with_l1 then d.l1 else 0 end
from judged j
join tensor_distance d on d.tensor_a = j.tensor_low and d.tensor_b = j.tensor_high
where not j.is_same and $metric in ('l0', 'l1', 'l2')
union all
select j.model_a, j.model_b, j.place, x.linf, 0
from judged j
join tensor_linf x on x.tensor_a = j.tensor_low and x.tensor_b = j.tensor_high
where not j.is_same and $metric = 'linf'
union all
select j.model_a, j.model_b, j.place, c.cossim, 0
from judged j
join tensor_cossim c
    on c.tensor_a = j.tensor_low and c.tensor_b = j.tensor_high and c.rows = j.rows
where not j.is_same and $metric = 'cossim';

-- name: store_counts
-- How many models there are, how many pairs of those with files, and how many were compared.
select
    (select count(*) from model),
    (select count(*) * (count(*) - 1) // 2 from model where source = 'checkpoint')::bigint,
    (select count(*) from model_pair where done);

-- name: show_models
-- The view of all models, in the order they came.
select v.* from models v join model m on m.name = v.name order by m.id;

-- name: unread_reasons
-- Why tensors of which models could not be read, and how many for each reason, the most first.
select m.name, u.note, count(*)
from unread_key u
join model m on m.id = u.model_id
group by m.name, u.note
order by m.name, count(*) desc, u.note;

-- name: components_of
-- The components of a model, the largest first.
select component
from held_keys
where model_id = $id
group by component
order by sum(numel) desc, component;

-- name: pair_layers
-- The layers of one pair, with the norms of both sides.
select r.*, ta.l2 as norm_a, tb.l2 as norm_b, is_measured(r.nature) and is_measured(b.nature) as is_measured
from layer_rows r
left join model_tensor a on a.model_id = r.model_a and a.key = r.key_a
left join tensor ta on ta.id = a.tensor_id
left join model_tensor b on b.model_id = r.model_b and b.key = r.key_b
left join tensor tb on tb.id = b.tensor_id
where r.model_a = $a and r.model_b = $b
order by r.canonical_key;
