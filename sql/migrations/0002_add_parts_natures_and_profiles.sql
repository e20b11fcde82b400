-- Parts, natures, representations, unread keys, profiles and folded sketches. What an older store
-- cannot know of its models stays NULL; reading them again (`megasim ingest --reread`) fills it in.

-- A file with several state dicts is several models: the first has the name of the file, the others
-- are called after it and their part, as in train#ema.
alter table model add column part varchar;
alter table model add column part_role varchar;
alter table model add column file_model_id integer;
alter table model add column tier varchar;

-- What a key is (weight, statistic, counter …), and how its bytes stand for values.
alter table model_tensor add column nature varchar;
alter table model_tensor add column representation varchar;

-- The natures of published layers, by their keys alone.
alter table imported_layer add column nature varchar;

-- How many of the compared keys are measured: l0, l1, l2, linf and cossim are of these.
alter table component_distance add column keys_measured integer;

-- Tensors that a file names, and of which no values could be read.
create table unread_key (
    model_id      integer not null,
    key           varchar not null,
    canonical_key varchar not null,
    component     varchar not null,
    reason        varchar not null,
    dtype         varchar,
    shape         bigint[],
    numel         bigint,
    digest        varchar,
    note          varchar not null
);

-- Keys that share the tensor of another key of their file.
create table tied_key (
    model_id integer not null,
    key      varchar not null,
    tied_to  varchar not null
);

-- What stands in a file beside its state dicts: optimizers, callbacks, … Never compared as weights.
create table beside (
    model_id integer not null,
    place    varchar not null,
    role     varchar not null,
    tensors  bigint  not null,
    numel    bigint,
    bytes    bigint,
    digest   varchar
);

-- Norms of the rows and columns of a matrix: they are the same, but for their order, when hidden
-- units are permuted.
create table profile (
    tensor_id integer not null,
    rows      blob,
    columns   blob
);

-- All sketches of a component of a model, folded into one.
create table folded_sketch (
    model_id       integer not null,
    component      varchar not null,
    keys           integer not null,
    key_set        varchar not null,
    sketch         float[] not null,
    sketch_version integer not null
);

-- Names that the user gave to components, known by their contents wherever they turn up.
create table known_component (
    name        varchar not null,
    component   varchar not null,
    fingerprint varchar not null,
    version     integer
);

-- What the service was asked to do, and what became of it.
create table job (
    id        integer   not null,
    kind      varchar   not null,
    arguments json      not null,
    state     varchar   not null,
    attempts  integer   not null,
    asked_at  timestamp not null,
    began_at  timestamp,
    ended_at  timestamp,
    result    json,
    error     varchar,
    remedy    varchar
);

-- Which parts are in of the jobs that several machines shared.
create table imported_shard (
    job      varchar not null,
    kind     varchar not null,
    part     integer not null,
    parts    integer not null,
    first_id integer,
    last_id  integer
);

-- Every row that an algorithm made carries its version. Those of before have the first one, their
-- fingerprints that of the models that hold them.
alter table tensor add column fingerprint_version integer;
update tensor set fingerprint_version = (
    select max(m.fingerprint_version)
    from model_tensor mt
    join model m on m.id = mt.model_id
    where mt.tensor_id = tensor.id
);
alter table tensor_linf add column metric_version integer default 1;
alter table tensor_linf alter column metric_version drop default;
alter table tensor_cossim add column metric_version integer default 1;
alter table tensor_cossim alter column metric_version drop default;
alter table model_pair add column metric_version integer default 1;
alter table model_pair alter column metric_version drop default;
alter table model_pair add column rename_version integer default 1;
alter table model_pair alter column rename_version drop default;
alter table component_distance add column version integer;
update component_distance c set version = case
    when c.source = 'exact' then 1
    when c.source = 'estimated' then (
        select m.fingerprint_version from model m where m.id = c.model_a
    )
end;

-- What was saved of a content and of a model, in a few bytes, to see whether it was altered since.
alter table tensor add column digest varchar;
alter table model add column contents_digest varchar;

-- How the values of a plain content lie to the codes of a quantised one.
create table tensor_rounding (
    tensor_a       integer not null,
    tensor_b       integer not null,
    measured       bigint  not null,
    within         bigint  not null,
    excess         double  not null,
    basis          varchar not null,
    proving        bigint  not null,
    metric_version integer not null
);

-- Of some models only the header was read, or a sample of each tensor.
alter table model add column sample_level integer;
alter table component_distance add column same_in_sample integer;
alter table component_distance add column keys_unread integer;

-- Keys of models of which no more than the header, or a sample, was read.
create table listed_key (
    model_id        integer not null,
    key             varchar not null,
    sources         varchar[] not null,
    transposed      boolean not null,
    canonical_key   varchar not null,
    canonical_shape varchar not null,
    shape           bigint[] not null,
    component       varchar not null,
    block           varchar,
    role            varchar,
    nature          varchar,
    representation  varchar,
    dtype           varchar not null,
    numel           bigint  not null,
    sampled         bigint  not null,
    content_hash    varchar,
    non_finite      bigint,
    l2              double
);

-- What the samples of two models say of a key; of one that was read in full the same elements.
create table sampled_distance (
    model_a       integer not null,
    model_b       integer not null,
    canonical_key varchar not null,
    status        varchar not null,
    sampled       bigint  not null,
    blocks        integer not null,
    l0            bigint,
    l1            double,
    l2            double,
    whole_l2      double,
    l2_error      double
);
