"""What a model holds under each key: out of a file, a store or a fingerprint file, in one form."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from megasim.anatomy.classification import canonical_shape
from megasim.checkpoint.locations import RemotePath, located
from megasim.checkpoint.opening import default_name
from megasim.compare.renames import NamedTensor
from megasim.errors import NoAnswerError, UsageError, printable
from megasim.exchange.fingerprint_file import import_fingerprints
from megasim.fingerprint.sketch import DEFAULT_SIZE
from megasim.fingerprint.tensor import COMPARABLE_VERSIONS
from megasim.ingest.files import begin_file, describe
from megasim.interrupts import stoppable
from megasim.progress import NO_PROGRESS, Progress
from megasim.representation.logical import PLAIN
from megasim.representation.opening import open_model
from megasim.store.batches import table_of
from megasim.store.rows import HeldModel, Model, Store

# Tensors this small or plain tell nothing about a rename, and the plainest nothing at all.
_FEW, _FEWEST = 64, 8
_HALF_LARGEST = 65504.0


@dataclass(frozen=True, slots=True)
class HeldKey:
    """What stands under one key of a file.

    Attributes:
        key: as in the file, after the name of its part where it is not the model itself.
        canonical_key: what it is called where renames and layouts are undone.
        content_hash: None for a tensor whose values could not be read, as the other hashes.
        unread: why it could not be; "" where it was read.
        representation: how its bytes stand for values: "plain", or the name of a scheme.
        digest: of the stored bytes of an unread tensor, None where they were not found.
        l2, linf: None with NaN or inf.
    """

    key: str
    canonical_key: str
    canonical_shape: str
    shape: tuple[int, ...] | None
    component: str
    nature: str | None
    dtype: str | None
    numel: int = 0
    content_hash: str | None = None
    value_hash: str | None = None
    fp16_hash: str | None = None
    bf16_hash: str | None = None
    infs: int = 0
    is_constant: bool = False
    l2: float | None = None
    linf: float | None = None
    representation: str = PLAIN
    unread: str = ""
    digest: str | None = None

    def named(self) -> NamedTensor:
        """Return what renames are sought by. See `compare.renames`."""
        fits_half = self.linf is not None and self.linf <= _HALF_LARGEST
        contents = (
            self.value_hash,
            self.fp16_hash if fits_half else None,
            self.bf16_hash if self.linf is not None else None,
        )
        return NamedTensor(
            self.canonical_shape,
            contents,
            trivial=self.is_constant or self.numel < _FEW,
            norm=self.l2,
            plain=self.is_constant or self.numel < _FEWEST,
        )


@dataclass(frozen=True)
class HeldKeys:
    """A model and its keys, those of all parts of its file. `beside` are never compared."""

    name: str
    keys: dict[str, HeldKey]
    beside: tuple[str, ...] = ()


def keys_of(
    named: str | Path, store: Callable[[], Store], progress: Progress = NO_PROGRESS
) -> HeldKeys:
    """Return what a file or folder holds where there is one of that name, else a model of a store.

    Args:
        store: opens the store; is called only where it is needed.

    Raises as `keys_of_file` and `keys_of_model` do.
    """
    path = located(named)
    if not path.exists():
        if isinstance(path, RemotePath) or Path(named).suffix or len(Path(named).parts) > 1:
            with suppress(UsageError, NoAnswerError):  # models may be called so
                return keys_of_model(store(), str(named))
            raise UsageError(f"nothing at {printable(named, 400)}", "check the path")
        return keys_of_model(store(), str(named))
    with ThreadPoolExecutor() as executor:
        return keys_of_file(path, executor=executor, progress=progress)


def keys_of_file(path: Path, *, executor: Executor, progress: Progress = NO_PROGRESS) -> HeldKeys:
    """Return what a checkpoint holds, after reading all of it; nothing is saved.

    Raises:
        CheckpointError: it cannot be read.
    """
    checkpoint = open_model(path.resolve())
    name = default_name(path)
    names = [f"{name}#{part.name}" for part in checkpoint.others]
    model = describe(checkpoint, name, DEFAULT_SIZE)
    reading = begin_file(model, checkpoint, names, executor=executor, rules=None, size=DEFAULT_SIZE)
    progress.start(f"Reading {printable(name, 60)}", reading.nbytes, "bytes")
    try:
        with stoppable():
            held = reading.gather(progress.advance)
    finally:
        progress.finish()
    keys = [key for i, part in enumerate(held) for key in _keys_of_part(part, i > 0)]
    beside = tuple(row.place for part in held for row in part.beside)
    return HeldKeys(name, {key.key: key for key in keys}, beside)


def _keys_of_part(held: HeldModel, is_further: bool) -> Iterable[HeldKey]:
    place = f"{held.model.part}/" if is_further else ""
    for tensor, told in zip(held.tensors, held.prints or (), strict=True):
        yield HeldKey(
            key=place + " + ".join(dict.fromkeys(tensor.sources)),
            canonical_key=place + tensor.canonical_key,
            canonical_shape="x".join(map(str, tensor.canonical_shape)),
            shape=tensor.shape,
            component=tensor.component,
            nature=tensor.nature,
            dtype=told.dtype,
            numel=told.numel,
            content_hash=told.content_hash,
            value_hash=told.value_hash,
            fp16_hash=told.fp16_hash,
            bf16_hash=told.bf16_hash,
            infs=told.infs,
            is_constant=told.is_constant,
            l2=told.l2,
            linf=told.linf,
            representation=tensor.representation or PLAIN,
        )
    for odd in held.unread:
        yield _unread(
            place, odd.key, odd.canonical_key, odd.component, odd.dtype, odd.shape, odd.reason,
            odd.digest,
        )  # fmt: skip


def _unread(
    place: str,
    key: str,
    canonical_key: str,
    component: str,
    dtype: str | None,
    shape: Iterable[int] | None,
    reason: str,
    digest: str | None,
) -> HeldKey:
    sizes = None if shape is None else tuple(shape)
    return HeldKey(
        place + key,
        place + canonical_key,
        "x".join(map(str, canonical_shape(sizes))) if sizes else "",
        sizes,
        component,
        None,
        dtype,
        unread=str(reason),
        digest=digest,
    )


def keys_of_model(store: Store, name: str) -> HeldKeys:
    """Return what a model of the store holds, with the further parts of its file.

    Raises:
        UsageError: an unknown model, one that only published distances are known of, or one whose
            fingerprints are of an older version.
    """
    (name,) = store.model_names([name])
    models = {model.name: model for model in store.models()}
    main = models[name]
    if main.source == "imported":
        raise UsageError(
            f"{printable(name)} has no fingerprints: only published results of it are known",
            "name its file",
        )
    if not main.is_full:
        raise UsageError(
            f"{printable(name)} was read as a {main.tier}: that proves nothing of all it holds",
            "name its file, or run `megasim ingest` on it without --header and --sample",
        )
    if main.fingerprint_version not in COMPARABLE_VERSIONS:
        raise UsageError(
            f"the fingerprints of {printable(name)} are of an older version",
            "run `megasim ingest --reread`, or name its file",
        )
    parts = [main, *(m for m in models.values() if m.file_model_id == main.id)]
    keys = [key for part in parts for key in _stored(store, part, part is not main)]
    return HeldKeys(name, {key.key: key for key in keys})


def _stored(store: Store, model: Model, is_further: bool) -> Iterable[HeldKey]:
    place = f"{model.part}/" if is_further else ""
    for key, canonical, canonical_sizes, shape, *rest in store.rows("keys_to_verify", id=model.id):
        held = HeldKey(place + key, place + canonical, canonical_sizes, tuple(shape), *rest)
        yield held
    for key, canonical, *rest in store.rows("unread_keys_to_verify", id=model.id):
        component, dtype, shape, reason, digest = rest
        yield _unread(place, key, canonical, component, dtype, shape, reason, digest)


def keys_of_fingerprints(path: Path | str, name: str | None = None) -> HeldKeys:
    """Return what a model of a fingerprint file holds, as its writer says.

    Args:
        name: of the model; may be None where the file tells of one.

    Raises:
        CheckpointError: it is no such file.
        UsageError: no model of that name is in it, or several are and none is named.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        Store(Path(folder) / "s.duckdb", "write") as store,
    ):
        import_fingerprints(store, Path(path))
        known = [model.name for model in store.models()]
        if name is None and len(known) > 1:
            raise UsageError(
                f"{printable(path)} tells of {len(known)} models: "
                + ", ".join(printable(one, 60) for one in known[:5]),
                "name one of them",
            )
        if name is not None and name not in known:
            raise UsageError(
                f"{printable(path)} does not tell of {printable(name)!r}",
                "it tells of " + ", ".join(printable(one, 60) for one in known[:5]),
            )
        held = keys_of_model(store, name or known[0])
    return replace(held, name=name or known[0])


def measured_roundings(
    store: Store, a: HeldKeys, b: HeldKeys
) -> dict[tuple[str, str], tuple[int, int]]:
    """Return what compare has measured of contents of A and B under one name: see `Roundings`."""
    by_name = {held.canonical_key: held.content_hash for held in b.keys.values()}
    pairs = {
        (held.content_hash, by_name[held.canonical_key])
        for held in a.keys.values()
        if held.content_hash and by_name.get(held.canonical_key)
    }
    if not pairs:
        return {}
    batch = table_of(("hash_a", "hash_b"), sorted(pairs))
    rows = store.rows("measured_roundings", tables={"batch": batch})
    return {(hash_a, hash_b): (measured, within) for hash_a, hash_b, measured, within in rows}
