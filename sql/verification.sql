-- What is known of a model, for `megasim verify` to hold another one against it.

-- name: keys_to_verify
-- What a model holds under each key of its file, with all by which it is compared.
select
    array_to_string(mt.sources, ' + ') as key, mt.canonical_key, mt.canonical_shape, mt.shape,
    mt.component, mt.nature, t.dtype, t.numel, t.content_hash, t.value_hash, t.fp16_hash,
    t.bf16_hash, t.infs, t.is_constant, t.l2, t.linf, coalesce(mt.representation, 'plain')
from model_tensor mt
join tensor t on t.id = mt.tensor_id
where mt.model_id = $id
order by mt.key;

-- name: unread_keys_to_verify
-- The keys of a model that name tensors of which no values could be read.
select key, canonical_key, component, dtype, shape, reason, digest
from unread_key
where model_id = $id
order by key;

-- name: measured_roundings
-- Of pairs of contents (batch): how the values of the plain one lie to the codes of the other.
select p.hash_a, p.hash_b, r.measured, r.within
from batch p
join tensor a on a.content_hash = p.hash_a
join tensor b on b.content_hash = p.hash_b
join tensor_rounding r
    on r.tensor_a = least(a.id, b.id) and r.tensor_b = greatest(a.id, b.id)
where r.basis <> 'scaled'
order by p.hash_a, p.hash_b;
