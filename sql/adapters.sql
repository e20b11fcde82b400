-- Statements of the command `adapter`.

-- name: weights_of
-- What a model holds by canonical key, as the layers of an adapter are sought among it.
select canonical_key, sources, shape, component, block, role
from model_tensor
where model_id = $id
order by canonical_key;

-- name: sketches_of_keys
-- The sketches of some canonical keys of a model, for the angle between its change and an adapter's.
-- {keys}
select k.place, t.sketch
from model_tensor mt
join tensor t on t.id = mt.tensor_id
join keys k on k.canonical_key = mt.canonical_key
where mt.model_id = $id and t.nans = 0 and t.infs = 0;
