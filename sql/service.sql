-- What the service asks beside what the answers ask.

-- name: service_models
-- The models whose name, family, variant or format holds $search, whatever its case.
select
    name, source, family, variant, format, part_role, components, dtypes, keys, parameters, unread,
    bytes, path
from models
where contains(lower(concat_ws(' ', name, family, variant, format)), lower($search))
order by name;
