-- What `megasim doctor` looks for. Each statement gives a row for each fault: what it is, in words
-- (told), and whose it is (a, b), which is what `diagnosis.CHECKS` says of it: two contents, two
-- models, one model, one content, or nothing. A sound store gives no row.
-- Norms and distances are good to 1e-6; bounds are asked for with 1e-5. Squares of what is below
-- 1e-150 or above 1e150 leave the range of float64, so nothing is said of those.

-- name: models_of_no_file
-- A checkpoint of which it is not known where it lay, or what it is called.
select
    concat(m.name, ': a checkpoint without a ', if(m.path is null, 'path', 'name')) as told,
    m.id as a,
    null::integer as b
from model m
where m.source = 'checkpoint' and (m.path is null or m.name = '')
order by m.id;

-- name: models_that_cannot_be
-- A source, a size or a version that no model has.
with size as (select mode(sketch_size) as numbers from model where source <> 'imported'),
fault as (
    select
        m.id,
        m.name,
        case
            when m.source not in ('checkpoint', 'imported', 'fingerprints') then 'source ' || m.source
            when m.bytes < 0 then 'a negative number of bytes'
            when m.source <> 'imported' and m.fingerprint_version > $fingerprint_version
                then 'fingerprint version ' || m.fingerprint_version || ', which is to come'
            when m.source <> 'imported' and m.sketch_size is distinct from size.numbers
                then 'a sketch size that the others do not have'
        end as told
    from model m
    left join size on true
    where m.fingerprint_version is not null or m.source = 'imported'
)
select concat(name, ': ', told) as told, id as a, null::integer as b
from fault
where told is not null
order by id;

-- name: models_without_contents
-- A checkpoint that holds nothing: half-written.
select concat(m.name, ': no tensor of it is in the store') as told, m.id as a, null::integer as b
from keyless_models
join model m using (id)
order by m.id;

-- name: models_that_lost_rows
-- What a model holds is not what was saved of it: its digest is another one.
select
    concat(m.name, ': its keys or contents are not those that were saved') as told,
    m.id as a,
    null::integer as b
from model m
left join contents_digests c on c.model_id = m.id
where m.contents_digest is not null
    and m.fingerprint_version is not null
    and m.contents_digest is distinct from c.digest
order by m.id;

-- name: keys_of_no_content
-- A key whose content is not in the store.
select
    concat(coalesce(m.name, 'model ' || mt.model_id), ': the content of ', mt.key, ' is missing')
        as told,
    mt.model_id as a,
    null::integer as b
from model_tensor mt
left join model m on m.id = mt.model_id
where mt.tensor_id not in (select id from tensor) and m.fingerprint_version is not null
order by mt.model_id, mt.key;

-- name: keys_held_twice
-- A canonical key that a model has more than once.
select
    concat(m.name, ': ', mt.canonical_key, ' stands ', count(*), ' times') as told,
    m.id as a,
    null::integer as b
from model_tensor mt
join model m on m.id = mt.model_id and m.fingerprint_version is not null
group by m.id, m.name, mt.canonical_key
having count(*) > 1
order by m.id, mt.canonical_key;

-- name: shapes_that_do_not_fit
-- A shape with another number of elements than the content has, or another than its canonical one.
select
    concat(m.name, ': ', mt.key, ' of shape ', mt.shape::varchar, ' and ', t.numel, ' elements')
        as told,
    m.id as a,
    null::integer as b
from model_tensor mt
join model m on m.id = mt.model_id and m.fingerprint_version is not null
join tensor t on t.id = mt.tensor_id
where list_product(mt.shape) <> t.numel
    or list_product(list_transform(
        list_filter(string_split(mt.canonical_shape, 'x'), lambda n: n <> ''),
        lambda n: n::bigint
    )) <> t.numel
order by m.id, mt.key;

-- name: rows_of_no_model
-- Rows of models that are not in the store.
with row_of as (
    select 'model_tensor' as place, model_id as id from model_tensor
    union all select 'unread_key', model_id from unread_key
    union all select 'listed_key', model_id from listed_key
    union all
    select 'sampled_distance', unnest([model_a, model_b]) from sampled_distance
    union all select 'tied_key', model_id from tied_key
    union all select 'beside', model_id from beside
    union all select 'folded_sketch', model_id from folded_sketch
    union all select 'model_pair', unnest([model_a, model_b]) from model_pair
    union all select 'rename', unnest([model_a, model_b]) from rename
    union all select 'renamed_key', unnest([model_a, model_b]) from renamed_key
    union all select 'component_distance', unnest([model_a, model_b]) from component_distance
    union all select 'imported_layer', unnest([model_a, model_b]) from imported_layer
    union all select 'pair_group', unnest([model_a, model_b]) from pair_group
    union all select 'model', file_model_id from model where file_model_id is not null
)
select
    concat(count(*), ' rows of ', place, ' are of model ', id, ', which is not there') as told,
    null::integer as a,
    null::integer as b
from row_of
where id not in (select id from model)
group by place, id
order by place, id;

-- name: rows_of_no_content
-- Distances and profiles of contents that are not in the store.
with row_of as (
    select 'tensor_distance' as place, unnest([tensor_a, tensor_b]) as id from tensor_distance
    union all select 'tensor_linf', unnest([tensor_a, tensor_b]) from tensor_linf
    union all select 'tensor_cossim', unnest([tensor_a, tensor_b]) from tensor_cossim
    union all select 'tensor_rounding', unnest([tensor_a, tensor_b]) from tensor_rounding
    union all select 'profile', tensor_id from profile
)
select
    concat(count(*), ' rows of ', place, ' are of content ', id, ', which is not there') as told,
    null::integer as a,
    null::integer as b
from row_of
where id not in (select id from tensor)
group by place, id
order by place, id;

-- name: contents_that_were_altered
-- A content whose hashes or norms are not those that were saved: its digest is another one.
select
    concat('content ', t.content_hash[1:12], '…, as in ', held.told,
        ': its hashes or norms are not those that were saved') as told,
    t.id as a,
    null::integer as b
from tensor t
left join (
    select mt.tensor_id, concat(min(m.name), ', ', min(mt.key)) as told
    from model_tensor mt
    join model m on m.id = mt.model_id
    group by mt.tensor_id
) held on held.tensor_id = t.id
where t.digest is not null
    and t.fingerprint_version is not null
    and t.digest <> tensor_digest(
        t.content_hash, t.value_hash, t.fp16_hash, t.bf16_hash, t.dtype, t.numel, t.l1, t.l2, t.linf,
        t.mean, t.std, t.kurtosis, t.zeros, t.nans, t.infs, t.is_constant
    )
order by t.id;

-- name: contents_that_cannot_be
-- Hashes, counts, norms and moments that no tensor has.
with fault as (
    select
        t.id,
        t.content_hash,
        case
            when not regexp_full_match(t.content_hash, '[0-9a-f]{64}')
                or not regexp_full_match(concat(t.value_hash, t.fp16_hash, t.bf16_hash), '[0-9a-f]{96}')
                then 'a hash is no hash'
            when not list_contains($dtypes, t.dtype) then 'no dtype is called ' || t.dtype
            when t.dtype = 'float16' and t.value_hash <> t.fp16_hash
                then 'the numbers of a float16 are not those of its rounding'
            when t.dtype = 'bfloat16' and t.value_hash not in (t.fp16_hash, t.bf16_hash)
                then 'the numbers of a bfloat16 are not those of its rounding'
            when t.numel < 0 then 'a negative number of elements'
            when least(t.zeros, t.nans, t.infs) < 0 or t.zeros + t.nans + t.infs > t.numel
                then 'more zeros, NaN and inf than elements'
            when t.nans + t.infs > 0 and coalesce(t.l1, t.l2, t.linf, t.mean, t.std) is not null
                then 'norms beside NaN or inf'
            when isnan(t.l1) or isnan(t.l2) or isnan(t.linf) or isnan(t.mean) or isnan(t.std)
                or isnan(t.kurtosis)
                then 'a norm or moment that is NaN'
            when least(t.l1, t.l2, t.linf, t.std) < 0 then 'a negative norm'
            when t.linf > t.l2 * 1.00001 or t.l2 > t.l1 * 1.00001
                then 'norms out of order: linf ≤ l2 ≤ l1'
            when t.l1 > sqrt(t.numel) * t.l2 * 1.00001 or t.l2 > sqrt(t.numel) * t.linf * 1.00001
                then 'norms that so few elements cannot have'
            when abs(t.mean) * t.numel > t.l1 * 1.00001 then 'a mean above that of the magnitudes'
            when abs((t.std * t.std + t.mean * t.mean) * t.numel - t.l2 * t.l2) > 1e-4 * t.l2 * t.l2
                then 'mean and deviation that do not make up the norm'
            when t.kurtosis < -2.001 then 'a kurtosis below −2'
            when t.is_constant and t.std > 0 then 'equal elements that deviate'
            when t.zeros = t.numel and t.l1 > 0 then 'zeros with a norm'
        end as told
    from tensor t
    -- squares beyond the range of float64 say nothing
    where t.fingerprint_version is not null
        and (t.linf is null or t.linf <= 0 or isnan(t.linf) or t.linf between 1e-100 and 1e100)
)
select concat('content ', content_hash[1:12], '…: ', told) as told, id as a, null::integer as b
from fault
where told is not null
order by id;

-- name: sketches_that_do_not_fit
-- Sketches of a wrong length, with NaN, or of another norm than their tensor: 8 standard errors off.
with size as (select mode(sketch_size) as numbers from model where source <> 'imported'),
sketched as (
    select
        t.id,
        t.content_hash,
        t.numel,
        t.l2,
        len(t.sketch) as length,
        least(t.numel, size.numbers * (
            select max(f.factor) from length_factors f where f.elements <= t.numel
        )) as wanted,
        sqrt(list_dot_product(t.sketch, t.sketch)) as norm
    from tensor t, size
    where size.numbers is not null and t.fingerprint_version is not null and t.nans + t.infs = 0 and t.linf < 1e15
)
select
    concat('content ', content_hash[1:12], '…: a sketch of ', coalesce(length, 0), ' numbers ',
        case when length is distinct from wanted then 'instead of ' || wanted
        else format('and norm {:.6g}, where the tensor has {:.6g}', norm, l2) end) as told,
    id as a,
    null::integer as b
from sketched
where length is distinct from wanted
    or isnan(norm)
    or (l2 > 1e-15 and abs(norm - l2)
        > l2 * if(length = numel, 1e-3, 8 / sqrt(2 * length)))
order by id;

-- name: distances_out_of_order
-- A pair of contents the wrong way round, or of a content with itself.
select concat('contents ', tensor_a, ' and ', tensor_b, ': not in order') as told,
    tensor_a as a, tensor_b as b
from (
    select tensor_a, tensor_b from tensor_distance where tensor_a >= tensor_b
    union all
    select tensor_a, tensor_b from tensor_linf where tensor_a >= tensor_b
    union all
    select tensor_a, tensor_b from tensor_cossim where tensor_a >= tensor_b
    union all
    select tensor_a, tensor_b from tensor_rounding where tensor_a >= tensor_b
)
order by a, b;

-- name: distances_held_twice
-- A pair of contents that stands more than once in a table.
select concat('contents ', a, ' and ', b, ': ', count, ' rows of ', place) as told, a, b
from (
    select 'tensor_distance' as place, tensor_a as a, tensor_b as b, count(*) as count
    from tensor_distance group by all
    union all
    select 'tensor_linf', tensor_a, tensor_b, count(*) from tensor_linf group by all
    union all
    select 'tensor_rounding', tensor_a, tensor_b, count(*) from tensor_rounding group by all
    union all
    select 'tensor_cossim', tensor_a, tensor_b, max(count)
    from (
        select tensor_a, tensor_b, rows, count(*) as count from tensor_cossim group by all
    )
    group by all
)
where count > 1
order by a, b;

-- name: distances_that_cannot_be
-- l0, l1 and l2 against each other, and against the norms, zeros and hashes of the two contents.
with fault as (
    select
        d.tensor_a,
        d.tensor_b,
        d.l0,
        d.l1,
        d.l2,
        case
            when ta.numel <> tb.numel then 'the contents differ in size'
            when ta.nans + ta.infs + tb.nans + tb.infs > 0 then 'one of the contents holds NaN or inf'
            when d.metric_version > $metric_version
                then 'metric version ' || d.metric_version || ', which is to come'
            when isnan(d.l1) or isnan(d.l2) then 'a distance is NaN'
            when isinf(d.l1) or isinf(d.l2) then 'a distance is infinite'
            when least(d.l0, d.l1, d.l2) < 0 then 'a distance is negative'
            when d.l0 > ta.numel then 'more elements differ than there are'
            when ta.value_hash = tb.value_hash then 'equal contents are apart'
            when d.l0 = 0 or d.l1 = 0
                then 'unequal contents are not apart'
            when d.l0 < abs(ta.zeros - tb.zeros) then 'fewer elements differ than zeros do'
            when d.l2 > d.l1 * 1.00001 then 'l2 exceeds l1'
            when d.l1 > sqrt(d.l0) * d.l2 * 1.00001 then 'l1 exceeds √l0 · l2'
            when d.l2 > (ta.l2 + tb.l2) * 1.00001 or d.l1 > (ta.l1 + tb.l1) * 1.00001
                then 'a distance exceeds the sum of the norms'
            when d.l2 < abs(ta.l2 - tb.l2) - 1e-5 * (ta.l2 + tb.l2)
                or d.l1 < abs(ta.l1 - tb.l1) - 1e-5 * (ta.l1 + tb.l1)
                then 'a distance falls short of the difference of the norms'
        end as told
    from tensor_distance d
    join tensor ta on ta.id = d.tensor_a
    join tensor tb on tb.id = d.tensor_b
    where ta.fingerprint_version is not null
        and tb.fingerprint_version is not null
        and (coalesce(greatest(ta.linf, tb.linf), 1) between 1e-100 and 1e100)
        and (coalesce(d.l1, 1) > 1e-140 or d.l1 <= 0)
        -- of which float64 holds no more digits
        and not (ta.dtype in ('int64', 'uint64') and greatest(ta.linf, tb.linf) > 9e15)
        and not (tb.dtype in ('int64', 'uint64') and greatest(ta.linf, tb.linf) > 9e15)
)
select
    concat('contents ', tensor_a, ' and ', tensor_b, ' at l0 ', l0, format(', l1 {:.6g}, l2 {:.6g}: ',
        l1, l2), told) as told,
    tensor_a as a,
    tensor_b as b
from fault
where told is not null
order by a, b;

-- name: distances_against_sketches
-- Distances that lie 8 standard errors away from what the sketches of both contents say. Materialized,
-- so that the database does not join the contents with each other before it joins the distances.
with sketched as materialized (
    select
        d.tensor_a,
        d.tensor_b,
        d.l2,
        len(ta.sketch) as length,
        ta.numel,
        case
            when len(ta.sketch) - len(tb.sketch) = 0 and len(ta.sketch) > 0
                and ta.fingerprint_version - tb.fingerprint_version = 0
                then list_distance(ta.sketch, tb.sketch)
        end as estimate,
        1e-5 * (ta.l2 + tb.l2) as rounding,
        greatest(ta.linf, tb.linf) as largest
    from tensor_distance d
    join tensor ta on ta.id = d.tensor_a
    join tensor tb on tb.id = d.tensor_b
)
select
    concat('contents ', tensor_a, ' and ', tensor_b,
        format(' at l2 {:.6g}, where their sketches say {:.6g}', l2, estimate)) as told,
    tensor_a as a,
    tensor_b as b
from sketched
where largest < 1e15
    and abs(estimate - l2)
        > rounding + greatest(l2, estimate) * if(length = numel, 1e-3, 8 / sqrt(2 * length))
order by a, b;

-- name: linfs_that_cannot_be
-- Largest differences against the other metrics, and against the norms of the two contents.
with fault as (
    select
        x.tensor_a,
        x.tensor_b,
        x.linf,
        case
            when isnan(x.linf) or x.linf < 0 then 'no distance'
            when x.metric_version > $metric_version then 'its metric version is to come'
            when d.tensor_a is null then 'the other metrics are missing'
            when x.linf = 0 and d.l0 > 0 then '0, but elements differ'
            when x.linf > d.l2 * 1.00001 then 'it exceeds l2'
            when d.l2 > sqrt(d.l0) * x.linf * 1.00001 then 'l2 exceeds √l0 times it'
            when x.linf > (ta.linf + tb.linf) * 1.00001 then 'it exceeds the sum of the norms'
        end as told
    from tensor_linf x
    join tensor ta on ta.id = x.tensor_a
    join tensor tb on tb.id = x.tensor_b
    left join tensor_distance d on d.tensor_a = x.tensor_a and d.tensor_b = x.tensor_b
    where ta.fingerprint_version is not null
        and tb.fingerprint_version is not null
        and greatest(ta.linf, tb.linf) between 1e-100 and 1e100
        and (coalesce(d.l1, 1) > 1e-140 or d.l1 <= 0)
)
select
    concat('contents ', tensor_a, ' and ', tensor_b, format(' at linf {:.6g}: ', linf), told) as told,
    tensor_a as a,
    tensor_b as b
from fault
where told is not null
order by a, b;

-- name: roundings_that_cannot_be
-- How plain contents lie to the codes of quantised ones, against their sizes and distances.
with fault as (
    select
        r.tensor_a,
        r.tensor_b,
        case
            when r.metric_version > $metric_version then 'its metric version is to come'
            when r.within < 0 or r.within > r.measured then 'more are within than were measured'
            when r.measured > ta.numel then 'more were measured than there are'
            when isnan(r.excess) or r.excess < 0 then 'no distance'
            when r.within < r.measured and r.excess = 0 then 'some are beyond by nothing'
            when r.basis not in ('', 'compensated', 'scaled') then 'it rests on nothing known'
            when r.proving < 0 or r.basis = '' and r.proving > 0 or r.basis = 'scaled' and r.proving = 0
                then 'a proof by no values, or values that prove nothing'
            when r.proving > ta.numel then 'more prove it than there are'
            when d.tensor_a is null then 'the other metrics are missing'
        end as told
    from tensor_rounding r
    join tensor ta on ta.id = r.tensor_a
    left join tensor_distance d on d.tensor_a = r.tensor_a and d.tensor_b = r.tensor_b
)
select
    concat('contents ', tensor_a, ' and ', tensor_b, ': ', told) as told,
    tensor_a as a,
    tensor_b as b
from fault
where told is not null
order by a, b;

-- name: cossims_that_cannot_be
-- Cosine similarities out of range, or of a shape that the content does not have.
select
    concat('contents ', c.tensor_a, ' and ', c.tensor_b, format(' at cossim {:.6g} over ', c.cossim),
        c.rows, ' rows') as told,
    c.tensor_a as a,
    c.tensor_b as b
from tensor_cossim c
join tensor ta on ta.id = c.tensor_a
where (isnan(c.cossim) and ta.numel > 0)
    or (not isnan(c.cossim) and abs(c.cossim) > 1.00001)
    or c.rows < 0
    or (c.rows > 0 and ta.numel % c.rows <> 0)
    or c.metric_version > $metric_version
order by a, b;

-- name: triangle_distances
-- The exact distances under each key that three contents or more stand under, for the triangle
-- inequality. A table of keys (batch) is asked for at a time.
select distinct b.position, d.tensor_a, d.tensor_b, d.l2
from batch b
join model_tensor ma on ma.canonical_key = b.canonical_key
join model_tensor mb on mb.canonical_key = b.canonical_key
join tensor_distance d on d.tensor_a = ma.tensor_id and d.tensor_b = mb.tensor_id
where d.metric_version = $version
order by b.position, d.tensor_a, d.tensor_b;

-- name: keys_of_triangles
-- The keys under which three contents or more stand.
select canonical_key
from model_tensor
group by canonical_key
having count(distinct tensor_id) > 2
order by canonical_key;

-- name: pairs_that_cannot_be
-- A pair of models the wrong way round, of a model with itself, or that stands more than once.
select
    concat('models ', model_a, ' and ', model_b, ': ',
        if(model_a >= model_b, 'not in order', count(*) || ' rows'), ' in ', place) as told,
    model_a as a,
    model_b as b
from (
    select 'model_pair' as place, '' as component, model_a, model_b from model_pair
    union all
    select 'component_distance', concat(source, ' ', component, ' ', origin), model_a, model_b
    from component_distance
    union all
    select 'rename', concat(prefix_a, '→', prefix_b), model_a, model_b from rename
    union all
    select 'renamed_key', key_a, model_a, model_b from renamed_key
)
group by place, component, model_a, model_b
having model_a >= model_b or count(*) > 1
order by a, b;

-- name: done_without_distances
-- Pairs that are said to be done, and of which distances are missing: l0 to l2, or those asked for.
select
    concat(j.name_a, ' and ', j.name_b, ': ', count(*), ' distances are missing, as of ',
        min(j.canonical_key)) as told,
    j.model_a as a,
    j.model_b as b
from judged_layers j
left join tensor_distance d
    on d.tensor_a = least(j.tensor_a, j.tensor_b) and d.tensor_b = greatest(j.tensor_a, j.tensor_b)
left join tensor_linf x
    on x.tensor_a = least(j.tensor_a, j.tensor_b) and x.tensor_b = greatest(j.tensor_a, j.tensor_b)
left join tensor_cossim c
    on c.tensor_a = least(j.tensor_a, j.tensor_b) and c.tensor_b = greatest(j.tensor_a, j.tensor_b)
    and c.rows = coalesce(j.rows, 1)
where j.done
    and j.status in ('same_at_fp16', 'same_at_bf16', 'changed')
    and (d.tensor_a is null
        or (j.with_linf and x.tensor_a is null)
        or (j.with_cossim and c.tensor_a is null))
group by j.model_a, j.model_b, j.name_a, j.name_b
order by a, b;

-- name: renames_that_cannot_be
-- Renamed keys that a model does not have, two that are brought onto one, or another number of them
-- than the rename says.
select concat(a.name, ' and ', b.name, ': ', told) as told, f.model_a as a, f.model_b as b
from (
    select r.model_a, r.model_b, 'no key ' || r.key_a || ' to rename' as told
    from renamed_key r
    anti join model_tensor mt on mt.model_id = r.model_a and mt.canonical_key = r.key_a
    union all
    select r.model_a, r.model_b, 'no key ' || r.key_b || ' to rename to'
    from renamed_key r
    anti join model_tensor mt on mt.model_id = r.model_b and mt.canonical_key = r.key_b
    union all
    select model_a, model_b, 'two keys are renamed to ' || key_b
    from renamed_key
    group by model_a, model_b, key_b
    having count(*) > 1
    union all
    select model_a, model_b, 'renames of ' || said || ' keys bring ' || found || ' together'
    from (
        select model_a, model_b, sum(keys) as said from rename group by all
    )
    full join (
        select model_a, model_b, count(*) as found from renamed_key group by all
    ) using (model_a, model_b)
    where said is distinct from found
    union all
    select r.model_a, r.model_b, 'a rename of a pair that was not asked for'
    from rename r
    anti join model_pair p on p.model_a = r.model_a and p.model_b = r.model_b
) f
join model a on a.id = f.model_a
join model b on b.id = f.model_b
order by f.model_a, f.model_b, told;

-- name: components_that_cannot_be
-- Rows of component_distance whose numbers contradict each other.
with fault as (
    select
        c.*,
        case
            when c.source not in ('exact', 'imported', 'estimated') then 'source ' || c.source
            when least(c.l0, c.l1, c.l2, c.linf, c.l2_error) < 0 then 'a distance is negative'
            when isnan(c.l1) or isnan(c.l2) or isnan(c.linf) or isnan(c.cossim) or isnan(c.l2_error)
                then 'a distance is NaN'
            when abs(c.cossim) > 1.00001 then 'a cosine similarity beyond 1'
            when c.coverage not between 0 and 1 or isnan(c.coverage) then 'a coverage beyond 0 to 1'
            when least(c.keys_compared, c.identical, c.same_values, c.same_at_fp16, c.same_at_bf16,
                c.changed, c.renamed, c.missing_a, c.missing_b, c.shape_mismatch, c.non_finite,
                c.keys_measured) < 0
                then 'a negative number of keys'
            when c.source <> 'imported' and c.keys_compared
                <> c.identical + c.same_values + c.same_at_fp16 + c.same_at_bf16 + c.changed
                    + coalesce(c.same_in_sample, 0)
                then 'the tiers do not add up to the keys compared'
            when c.keys_measured > c.keys_compared then 'more keys measured than compared'
            when c.source <> 'estimated' and c.l2_error > 0 then 'an error of what is no estimate'
            when c.source = 'exact' and (c.l0 is null) <> (c.l2 is null) then 'some metrics are missing'
            when c.l0 > 0 and c.l2 = 0 and c.l1 > 1e-140 then 'elements that differ by nothing'
            when c.l1 > sqrt(c.l0) * c.l2 * 1.00001 and c.l1 between 1e-100 and 1e100
                then 'l1 exceeds √l0 · l2'
            when c.source = 'exact' and p.done is distinct from true
                then 'exact, but the pair is not done'
        end as told
    from component_distance c
    left join model_pair p on p.model_a = c.model_a and p.model_b = c.model_b
)
select
    concat(a.name, ' and ', b.name, ', ', f.component, ': ', f.told) as told,
    f.model_a as a,
    f.model_b as b
from fault f
join model a on a.id = f.model_a
join model b on b.id = f.model_b
where f.told is not null
order by f.model_a, f.model_b, f.component;

-- name: imported_that_cannot_be
-- Published layers with a status or a distance that cannot be.
select
    concat(a.name, ' and ', b.name, ', ', i.canonical_key, ': ', i.status, ' at ', i.l2) as told,
    i.model_a as a,
    i.model_b as b
from imported_layer i
join model a on a.id = i.model_a
join model b on b.id = i.model_b
where i.l2 < 0
    or isnan(i.l2)
    or i.model_a >= i.model_b
    or i.status not in (
        'identical', 'changed', 'missing_a', 'missing_b', 'shape_mismatch', 'non_finite'
    )
    or (i.status = 'identical' and i.l2 <> 0)
    or (i.status in ('missing_a', 'missing_b', 'shape_mismatch') and i.l2 is not null)
order by i.model_a, i.model_b, i.canonical_key;

-- name: sums_that_do_not_follow
-- Sums of finished pairs (batch) that are not those of their layers (summed), or of which one is
-- missing.
with held as (
    select c.*
    from component_distance c
    join batch b on b.model_a = c.model_a and b.model_b = c.model_b
    where c.source = 'exact'
)
select
    concat(a.name, ' and ', b.name, ', ', component, ': ', case
        when h.source is null then 'its sums are missing'
        when s.source is null then 'sums of layers that are not there'
        else format('l2 {:.6g} of {} keys, where the layers make {:.6g} of {}', coalesce(h.l2, 'nan'),
            coalesce(h.keys_compared, 0), coalesce(s.l2, 'nan'), s.keys_compared)
    end) as told,
    model_a as a,
    model_b as b
from held h
full join summed s using (model_a, model_b, component)
join model a on a.id = model_a
join model b on b.id = model_b
where h.source is null
    or s.source is null
    or h.l0 is distinct from s.l0
    or h.keys_compared is distinct from s.keys_compared
    or h.identical is distinct from s.identical
    or h.same_values is distinct from s.same_values
    or h.same_at_fp16 is distinct from s.same_at_fp16
    or h.same_at_bf16 is distinct from s.same_at_bf16
    or h.changed is distinct from s.changed
    or h.renamed is distinct from s.renamed
    or h.missing_a is distinct from s.missing_a
    or h.missing_b is distinct from s.missing_b
    or h.shape_mismatch is distinct from s.shape_mismatch
    or h.non_finite is distinct from s.non_finite
    or h.coverage is distinct from s.coverage
    -- sums of before it was known what they are taken over do not say it
    or coalesce(h.keys_measured, s.keys_measured) is distinct from s.keys_measured
    or are_apart(h.l1, s.l1)
    or are_apart(h.l2, s.l2)
    or are_apart(h.linf, s.linf)
    or are_apart(h.cossim, s.cossim)
order by model_a, model_b, component;

-- name: samples_that_cannot_be
-- What samples say of a key of a pair, against itself and what both models hold under it.
with fault as (
    select
        d.model_a,
        d.model_b,
        d.canonical_key,
        case
            when count(*) over (partition by d.model_a, d.model_b, d.canonical_key) > 1
                then 'it stands more than once'
            when a.model_id is null or b.model_id is null then 'a key that one of them does not have'
            when d.status not in ('identical', 'same_values', 'same_in_sample', 'changed', 'non_finite')
                then 'status ' || d.status
            when least(d.l0, d.l1, d.l2, d.whole_l2, d.l2_error) < 0 then 'a distance is negative'
            when isnan(d.l1) or isnan(d.l2) or isnan(d.whole_l2) or isnan(d.l2_error)
                then 'a distance is NaN'
            when d.sampled not between 0 and least(a.numel, b.numel)
                then 'another number of elements than there are'
            when d.l0 > d.sampled then 'more elements differ than were read'
            when d.status in ('identical', 'same_values', 'same_in_sample')
                and greatest(d.l0, d.l2, d.whole_l2) > 0
                then 'equal, at a distance'
            when d.status = 'changed' and coalesce(d.l0, 0) = 0 then 'changed, and no element differs'
            when d.l2 > d.l1 * 1.00001 and d.l1 > 1e-140 then 'l2 exceeds l1'
            when d.l1 > sqrt(d.l0) * d.l2 * 1.00001 and d.l1 between 1e-100 and 1e100
                then 'l1 exceeds √l0 · l2'
            when d.l2 > d.whole_l2 * 1.00001 then 'the sample exceeds the whole'
        end as told
    from sampled_distance d
    left join held_keys a on a.model_id = d.model_a and a.canonical_key = d.canonical_key
    left join held_keys b on b.model_id = d.model_b and b.canonical_key = d.canonical_key
    union all
    select p.model_a, p.model_b, a.canonical_key, 'its samples are missing'
    from model_pair p
    join model ma on ma.id = p.model_a
    join model mb on mb.id = p.model_b
    join held_keys a on a.model_id = p.model_a
    join held_keys b on b.model_id = p.model_b
        and b.canonical_key = a.canonical_key
        and b.canonical_shape = a.canonical_shape
    anti join sampled_distance d
        on d.model_a = p.model_a and d.model_b = p.model_b and d.canonical_key = a.canonical_key
    where p.done
        and 'sample' in (ma.tier, mb.tier)
        and coalesce(ma.tier, 'full') <> 'header'
        and coalesce(mb.tier, 'full') <> 'header'
)
select
    concat(a.name, ' and ', b.name, ', ', f.canonical_key, ': ', f.told) as told,
    f.model_a as a,
    f.model_b as b
from fault f
join model a on a.id = f.model_a
join model b on b.id = f.model_b
where f.told is not null
order by f.model_a, f.model_b, f.canonical_key;

-- name: sampled_sums_that_do_not_follow
-- Sums of finished pairs (batch) that are not those of their samples (summed), or are missing.
with held as (
    select c.*
    from component_distance c
    join batch b on b.model_a = c.model_a and b.model_b = c.model_b
    where c.source = 'estimated'
)
select
    concat(a.name, ' and ', b.name, ', ', component, ': ', case
        when h.source is null then 'its sums are missing'
        when s.source is null then 'sums of keys that are not there'
        else format('l2 {:.6g} of {} keys, where the samples make {:.6g} of {}',
            coalesce(h.l2, 'nan'), coalesce(h.keys_compared, 0), coalesce(s.l2, 'nan'),
            s.keys_compared)
    end) as told,
    model_a as a,
    model_b as b
from held h
full join summed s using (model_a, model_b, component)
join model a on a.id = model_a
join model b on b.id = model_b
where h.source is null
    or s.source is null
    or h.keys_compared is distinct from s.keys_compared
    or h.identical is distinct from s.identical
    or h.same_values is distinct from s.same_values
    or h.changed is distinct from s.changed
    or h.missing_a is distinct from s.missing_a
    or h.missing_b is distinct from s.missing_b
    or h.shape_mismatch is distinct from s.shape_mismatch
    or h.non_finite is distinct from s.non_finite
    or h.same_in_sample is distinct from s.same_in_sample
    or h.keys_unread is distinct from s.keys_unread
    or h.keys_measured is distinct from s.keys_measured
    or h.coverage is distinct from s.coverage
    or are_apart(h.l2, s.l2)
    or are_apart(h.l2_error, s.l2_error)
order by model_a, model_b, component;

-- name: imported_sums_that_do_not_follow
-- Sums of published layers that are not those of the layers.
with summed as (
    select
        model_a,
        model_b,
        component,
        count(*) filter (status in ('identical', 'changed')) as keys_compared,
        sqrt(sum(l2 * l2 order by canonical_key) filter (is_measured(nature))) as l2
    from imported_layer
    group by model_a, model_b, component
)
select
    concat(a.name, ' and ', b.name, ', ', component,
        ': not the sums of the published layers') as told,
    model_a as a,
    model_b as b
from (
    select * from component_distance where source = 'imported' and keys_compared is not null
) c
full join summed s using (model_a, model_b, component)
join model a on a.id = model_a
join model b on b.id = model_b
where c.keys_compared is distinct from s.keys_compared or are_apart(c.l2, s.l2)
order by model_a, model_b, component;

-- name: estimated_components
-- The components of which some distances are estimates from sketches, as of models read in full.
select distinct c.component
from component_distance c
join model a on a.id = c.model_a
join model b on b.id = c.model_b
where c.source = 'estimated'
    and coalesce(a.tier, 'full') = 'full'
    and coalesce(b.tier, 'full') = 'full'
order by c.component;

-- name: estimates_that_do_not_follow
-- Estimates of a component that are not those of the sketches (batch).
select
    concat(a.name, ' and ', b.name, ', ', c.component,
        format(': estimated l2 {:.6g}, where the sketches say {:.6g}', coalesce(c.l2, 'nan'),
            coalesce(e.l2, 'nan'))) as told,
    c.model_a as a,
    c.model_b as b
from component_distance c
join model a on a.id = c.model_a
join model b on b.id = c.model_b
left join batch e on e.model_a = c.model_a and e.model_b = c.model_b
where c.source = 'estimated'
    and coalesce(a.tier, 'full') = 'full'
    and coalesce(b.tier, 'full') = 'full'
    and c.component = $component
    and (e.model_a is null
        or e.keys_compared is distinct from c.keys_compared
        or e.changed is distinct from c.changed
        or e.identical is distinct from c.identical
        or abs(e.l2 - c.l2) > 1e-4 * greatest(e.l2, c.l2) + 1e-4 * e.l2_error
        or (e.l2 is null) <> (c.l2 is null)
        or abs(e.l2_error - c.l2_error) > 1e-3 * e.l2_error + 1e-9)
order by a, b;

-- name: drop_rows_of_no_model
-- Rows of models that are not in the store.
delete from model_tensor where model_id not in (select id from model);
delete from unread_key where model_id not in (select id from model);
delete from listed_key where model_id not in (select id from model);
delete from sampled_distance
where model_a not in (select id from model) or model_b not in (select id from model);
delete from tied_key where model_id not in (select id from model);
delete from beside where model_id not in (select id from model);
delete from folded_sketch where model_id not in (select id from model);
delete from model_pair
where model_a not in (select id from model) or model_b not in (select id from model);
delete from rename
where model_a not in (select id from model) or model_b not in (select id from model);
delete from renamed_key
where model_a not in (select id from model) or model_b not in (select id from model);
delete from component_distance
where model_a not in (select id from model) or model_b not in (select id from model);
delete from imported_layer
where model_a not in (select id from model) or model_b not in (select id from model);
delete from pair_group
where model_a not in (select id from model) or model_b not in (select id from model);
update model set file_model_id = null where file_model_id not in (select id from model);

-- name: mark_models
-- Models (batch) to be read again: their fingerprints are of no version.
update model
set
    fingerprint_version = null,
    sketch_size = (select mode(sketch_size) from model where source <> 'imported')
where id in (select id from batch);

-- name: mark_contents
-- Contents (batch) to be read again, and the models that hold them.
update model set fingerprint_version = null
where id in (
    select mt.model_id from model_tensor mt join batch b on b.id = mt.tensor_id
);
update tensor set fingerprint_version = null where id in (select id from batch);

-- name: drop_distances
-- Distances of pairs of contents (batch), either way round.
delete from tensor_distance d using batch b
where d.tensor_a in (b.a, b.b) and d.tensor_b in (b.a, b.b);
delete from tensor_linf d using batch b
where d.tensor_a in (b.a, b.b) and d.tensor_b in (b.a, b.b);
delete from tensor_cossim d using batch b
where d.tensor_a in (b.a, b.b) and d.tensor_b in (b.a, b.b);
delete from tensor_rounding d using batch b
where d.tensor_a in (b.a, b.b) and d.tensor_b in (b.a, b.b);

-- name: pairs_of_contents
-- The pairs of models that need the distances of pairs of contents (batch).
select distinct l.model_a, l.model_b
from aligned_layers l
join batch b
    on least(l.tensor_a, l.tensor_b) = least(b.a, b.b)
    and greatest(l.tensor_a, l.tensor_b) = greatest(b.a, b.b)
order by all;

-- name: reopen_pairs
-- Pairs of models (batch) are to be compared again.
update model_pair p set done = false, linf = false, cossim = false
from batch b
where p.model_a = b.a and p.model_b = b.b;
delete from component_distance c using batch b
where c.model_a = b.a and c.model_b = b.b and c.source = 'exact';

-- name: drop_pairs
-- Pairs of models (batch) are to be asked for again, with their renames and what samples say.
delete from model_pair p using batch b where p.model_a = b.a and p.model_b = b.b;
delete from sampled_distance d using batch b where d.model_a = b.a and d.model_b = b.b;
delete from rename r using batch b where r.model_a = b.a and r.model_b = b.b;
delete from renamed_key r using batch b where r.model_a = b.a and r.model_b = b.b;
delete from component_distance c using batch b
where c.model_a = b.a and c.model_b = b.b and c.source <> 'imported';

-- name: drop_exact_components
-- Sums of pairs (batch) that are not done, or that are made again.
delete from component_distance c using batch b
where c.model_a = b.a
    and c.model_b = b.b
    and (c.source not in ('imported', 'estimated'));

-- name: drop_estimates
-- Estimates of pairs (batch).
delete from component_distance c using batch b
where c.model_a = b.a and c.model_b = b.b and c.source = 'estimated';

-- name: drop_sums_of_layers
-- Sums of published layers of pairs (batch).
delete from component_distance c using batch b
where c.model_a = b.model_a
    and c.model_b = b.model_b
    and c.source = 'imported'
    and c.keys_compared is not null;

-- name: pairs_with_published_layers
-- The pairs of which others published layers.
select distinct model_a, model_b from imported_layer order by all;

-- name: contents_under_keys
-- What a model holds under each canonical key: the content's id, hashes, dtype and size.
select
    mt.canonical_key, t.id, t.content_hash, t.value_hash, t.fp16_hash, t.bf16_hash, t.dtype, t.numel
from model_tensor mt
join tensor t on t.id = mt.tensor_id
where mt.model_id = $id
order by mt.canonical_key;

-- name: doctor_notes
-- What is no damage, and should be known: models to be read again, contents that nobody holds, rows
-- of an older version, models that were saved before it was noted what they hold.
select told
from (
    select 1 as place, concat(count(*), ' models are to be read again, as their fingerprints are of ',
        'another version or were found wrong: `megasim ingest` of ',
        list(path order by id)[1:3]::varchar) as told, count(*) as found
    from model
    where source <> 'imported' and fingerprint_version is distinct from $version
    union all
    select 2, concat(count(*), ' contents are held by no model: `megasim compact` drops them'), count(*)
    from tensor
    where id not in (select tensor_id from model_tensor)
    union all
    select 3, concat(count(*), ' distances are of an older version: `megasim compare` renews them'),
        count(*)
    from tensor_distance
    where metric_version < current_metric()
    union all
    select 4, concat(count(*), ' models were read before it was noted what they hold, so that lost ',
        'rows of them would not be seen: `megasim ingest --reread` notes it'), count(*)
    from model
    where source <> 'imported'
        and contents_digest is null
        and id in (select model_id from model_tensor)
    union all
    select 5, concat(count(*), ' pairs are not finished: `megasim compare` finishes them'), count(*)
    from model_pair
    where not done
)
where found > 0
order by place;
