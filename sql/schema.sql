-- The store, as all migrations together leave it. A test holds the two equal.
-- Ids are given by the one writer; a pair is stored once, the smaller id first.

-- The version of this schema, a row for each migration that ran.
create table schema_version (
    version integer not null,
    name    varchar not null
);

-- A checkpoint, or a model known only from published distances or fingerprints.
create table model (
    id                  integer primary key,
    name                varchar not null unique,
    source              varchar not null,   -- 'checkpoint', 'imported' or 'fingerprints'
    path                varchar,
    format              varchar,
    bytes               bigint,
    mtime_ns            bigint,
    header_hash         varchar,
    family              varchar,
    variant             varchar,
    layout              varchar,
    metadata            json,
    skipped             json,               -- keys that hold no comparable tensor, with the reason
    ingested_at         timestamp,
    fingerprint_version integer,
    sketch_size         integer,            -- numbers a sketch; one for the whole store
    part                varchar,            -- which state dict of its file; '' for the first or only
    part_role           varchar,            -- 'weights', 'ema', 'teacher', 'adapter', …
    file_model_id       integer,            -- of another part: the model of the first of its file
    tier                varchar,            -- how much was read: 'header', 'sample' or 'full'
    contents_digest     varchar,            -- of what it holds, as it was saved; NULL: not known
    sample_level        integer             -- of a sample: 1/2ᵏ of the elements of large tensors
);

-- Tensors that a file names, and of which no values could be read.
create table unread_key (
    model_id      integer not null,
    key           varchar not null,
    canonical_key varchar not null,
    component     varchar not null,
    reason        varchar not null,         -- 'dtype', 'layout', 'placeholder', 'object' or 'absent'
    dtype         varchar,
    shape         bigint[],
    numel         bigint,
    digest        varchar,                  -- BLAKE3 of the stored bytes, where they could be found
    note          varchar not null          -- the reason in words
);

-- Keys of models of which no more than the header, or a sample, was read.
create table listed_key (
    model_id        integer not null,
    key             varchar not null,               -- as in model_tensor, what follows too
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
    sampled         bigint  not null,               -- elements that were read; 0 of a header
    content_hash    varchar,                  -- of these
    non_finite      bigint,                   -- of these
    l2              double                   -- of the whole, estimated
);

-- What the samples of two models say of a key; of one that was read in full the same elements.
create table sampled_distance (
    model_a       integer not null,
    model_b       integer not null,
    canonical_key varchar not null,
    status        varchar not null,               -- 'changed', 'same_in_sample', 'identical', …
    sampled       bigint  not null,               -- elements that both were looked at
    blocks        integer not null,               -- in so many runs
    l0            bigint,                   -- l0, l1, l2: of these elements, exact
    l1            double,
    l2            double,
    whole_l2      double,                   -- of the whole tensor, estimated
    l2_error      double                   -- its standard error
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
    place    varchar not null,              -- where it lies in the file
    role     varchar not null,              -- 'optimizer', 'callback', …
    tensors  bigint  not null,
    numel    bigint,
    bytes    bigint,
    digest   varchar                        -- of its contents in the order of their keys
);

-- One content, whatever keys and models hold it.
create table tensor (
    id           integer primary key,
    content_hash varchar not null unique,   -- BLAKE3 over dtype and raw bytes, or codes and scales
    value_hash   varchar not null,          -- equal for equal numbers in any dtype
    fp16_hash    varchar not null,          -- of the values rounded to float16
    bf16_hash    varchar not null,          -- of the values rounded to bfloat16
    dtype        varchar not null,
    numel        bigint  not null,
    l1           double,
    l2           double,
    linf         double,
    mean         double,
    std          double,
    kurtosis     double,
    zeros        bigint  not null,
    nans         bigint  not null,
    infs         bigint  not null,
    is_constant  boolean not null,
    sketch       float[],
    fingerprint_version integer,            -- NULL: wrong, and to be made again
    digest       varchar                    -- of hashes and norms, as they were saved
);

-- Norms of the rows and columns of a matrix: they are the same, but for their order, when hidden
-- units are permuted.
create table profile (
    tensor_id integer not null,
    rows      blob,                         -- float16
    columns   blob                          -- float16
);

-- All sketches of a component of a model, folded into one.
create table folded_sketch (
    model_id       integer not null,
    component      varchar not null,
    keys           integer not null,        -- how many keys went in
    key_set        varchar not null,        -- equal for the same keys in the same shapes
    sketch         float[] not null,
    sketch_version integer not null
);

-- Which tensor a model holds under which key.
create table model_tensor (
    model_id        integer not null,
    tensor_id       integer not null,
    key             varchar not null,       -- as in the file; fused keys are joined by ' + '
    sources         varchar[] not null,     -- the keys of the file, one after another
    transposed      boolean not null,
    canonical_key   varchar not null,
    canonical_shape varchar not null,       -- e.g. '320x4x3x3'; a 1x1 convolution as its matrix
    shape           bigint[] not null,
    component       varchar not null,
    block           varchar,
    role            varchar,
    nature          varchar,                -- 'weight', 'statistic', 'counter', …; NULL: not known yet
    representation  varchar                 -- how its bytes stand for values: 'plain', 'bitsandbytes nf4', …
);

-- The distance of two contents; every pair of models that holds them shares it.
create table tensor_distance (
    tensor_a       integer not null,
    tensor_b       integer not null,
    l0             bigint  not null,
    l1             double  not null,
    l2             double  not null,
    metric_version integer not null
);

-- The largest difference of two contents, where it was asked for.
create table tensor_linf (
    tensor_a integer not null,
    tensor_b integer not null,
    linf     double  not null,
    metric_version integer
);

-- Mean cosine similarity of the columns of two contents, where it was asked for;
-- it depends on how many rows the shape gives them.
create table tensor_cossim (
    tensor_a integer not null,
    tensor_b integer not null,
    rows     bigint  not null,
    cossim   double  not null,
    metric_version integer
);

-- How the values of a plain content lie to the codes of a quantised one.
create table tensor_rounding (
    tensor_a       integer not null,
    tensor_b       integer not null,
    measured       bigint  not null,        -- values looked at
    within         bigint  not null,        -- of them: half a step or less from the code's value
    excess         double  not null,        -- of the farthest beyond, in steps of its block
    basis          varchar not null,        -- proof where not all are within: compensated, scaled, or ''
    proving        bigint  not null,        -- values that it rests on
    metric_version integer not null
);

-- The pairs of models asked for, and whether all their distances are in the store.
create table model_pair (
    model_a integer not null,
    model_b integer not null,
    done    boolean not null,               -- l0, l1 and l2
    linf    boolean not null,
    cossim  boolean not null,
    metric_version integer,                 -- of what is done
    rename_version integer                  -- of the renames that were sought for it
);

-- A substitution of prefixes under which two models name the same tensors.
create table rename (
    model_a  integer not null,
    model_b  integer not null,
    prefix_a varchar not null,
    prefix_b varchar not null,
    keys     integer not null,              -- keys it brings together
    support  integer not null,              -- of them, how many by equal content
    basis    varchar not null               -- 'content', 'rounded content', 'structure' or 'shapes'
);

-- The keys of a pair that a rename brings together.
create table renamed_key (
    model_a integer not null,
    model_b integer not null,
    key_a   varchar not null,               -- canonical key in a
    key_b   varchar not null                -- canonical key in b
);

-- What is known of a pair and component, kept as pairs come in, so that a matrix is a short read.
create table component_distance (
    model_a        integer not null,
    model_b        integer not null,
    component      varchar not null,
    source         varchar not null,        -- 'exact', 'imported' or 'estimated'
    origin         varchar,                 -- the published file of an imported value
    unproven       boolean not null,        -- a published 0 that may mean "not compared"
    keys_compared  integer,
    identical      integer,
    same_values    integer,
    same_at_fp16   integer,
    same_at_bf16   integer,
    changed        integer,
    renamed        integer,
    missing_a      integer,
    missing_b      integer,
    shape_mismatch integer,
    non_finite     integer,
    l0             bigint,
    l1             double,
    l2             double,
    linf           double,
    cossim         double,
    l2_error       double,                  -- standard error of an estimated l2
    coverage       double,
    keys_measured  integer,                 -- of those compared: what l0 to cossim are taken over
    version        integer,                 -- exact: of the metric; estimated: of the fingerprints
    same_in_sample integer,                 -- equal in all elements that were read, and not all were
    keys_unread    integer                  -- of both, of one of which only the header was read
);

-- Layer distances that others measured and published.
create table imported_layer (
    model_a       integer not null,
    model_b       integer not null,
    canonical_key varchar not null,
    key_a         varchar,
    key_b         varchar,
    component     varchar not null,
    block         varchar,
    role          varchar,
    status        varchar not null,
    l2            double,
    origin        varchar not null,
    nature        varchar
);

-- Pairs that belong together, as a model map or a published file names them.
create table pair_group (
    name    varchar not null,
    model_a integer not null,
    model_b integer not null
);

-- Names that the user gave to components, known by their contents wherever they turn up.
create table known_component (
    name        varchar not null,
    component   varchar not null,           -- 'vae' for a VAE as a whole
    fingerprint varchar not null,           -- of what is used of it, once rounded to float16
    version     integer                     -- of the fingerprints it was made with
);

-- What the service was asked to do, and what became of it.
create table job (
    id        integer   not null,
    kind      varchar   not null,           -- 'ingest', 'compare', 'import', 'report', …
    arguments json      not null,
    state     varchar   not null,           -- see `megasim.words.JobState`
    attempts  integer   not null,           -- how often it began
    asked_at  timestamp not null,
    began_at  timestamp,
    ended_at  timestamp,
    result    json,
    error     varchar,                      -- why it failed
    remedy    varchar
);

-- Which parts are in of the jobs that several machines shared. The models of a job get ids in the
-- order of its files, whatever order its parts come in: some are kept for those to come.
create table imported_shard (
    job      varchar not null,              -- of the same files or pairs, cut into as many parts
    kind     varchar not null,              -- 'ingest' or 'compare'
    part     integer not null,              -- from 1 on
    parts    integer not null,
    first_id integer,                       -- of the models of an ingest
    last_id  integer
);

-- The text of views.sql as it last ran, to see when the views must be made anew.
create table view_text (
    text varchar not null
);
