"""Profiles of models that were read as samples: the matrices that a question needs, read whole.

A sample tells nothing of the norms of whole rows and columns: blocks meet a few rows, and none of
them in full. So the few matrices that are asked for are read from the files, and give the very
numbers that reading all would have given. Nothing of it is saved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future

from megasim.checkpoint.opening import Checkpoint
from megasim.checkpoint.tensors import TensorRef
from megasim.fingerprint.profile import NO_NORMS, Norms
from megasim.fingerprint.table import FingerprintTable
from megasim.fingerprint.tensor import fingerprint_refs
from megasim.ingest.reading import assemble_ref, pieces_of
from megasim.store.rows import Store

# A sketch is made along the way, and not used.
_SHORT_SKETCH = 16


class FileProfiles:
    """Row and column norms of tensors in the files of some models, each read once.

    Attributes:
        bytes_read: how much of the files was read so far.
    """

    def __init__(self, store: Store, files: Mapping[int, Checkpoint], executor: Executor) -> None:
        """Take the open files of models, by id, which are what was ingested.

        Args:
            executor: runs `fingerprint_refs`.
        """
        self._files = files
        self._executor = executor
        self._keys: dict[tuple[int, str], tuple[tuple[str, ...], bool]] = {}
        batch = {"batch": {"model_id": sorted(files)}}
        for model_id, key, sources, transposed, *_ in store.rows("keys_to_sample", tables=batch):
            self._keys[model_id, key] = tuple(sources), transposed
        self._found: dict[tuple[int, str], tuple[Norms, Norms]] = {}
        self.bytes_read = 0

    def __contains__(self, model_id: int) -> bool:
        """Whether norms of a model come from its file."""
        return model_id in self._files

    def read(self, wanted: Mapping[int, Sequence[str]]) -> None:
        """Read keys of models, by id, that were not read yet.

        Raises:
            CheckpointError: one cannot be read, or its file changed meanwhile.
        """
        pieces: list[tuple[list[tuple[int, str]], Future[FingerprintTable]]] = []
        for model_id, keys in wanted.items():
            new = [key for key in dict.fromkeys(keys) if (model_id, key) not in self._found]
            new = [key for key in new if (model_id, key) in self._keys]
            refs = [self._ref(model_id, key) for key in new]
            self.bytes_read += sum(ref.bytes_in_file for ref in refs)
            remaining = iter(new)
            for piece in pieces_of(refs):
                places = [(model_id, next(remaining)) for _ in piece]
                pieces.append(
                    (places, self._executor.submit(fingerprint_refs, piece, _SHORT_SKETCH))
                )
        for places, future in pieces:
            table = future.result()
            for i, place in enumerate(places):
                norms = (table.row_norms[i], table.column_norms[i])
                self._found[place] = norms[0].copy(), norms[1].copy()
        for model_id in wanted:
            self._files[model_id].identity.check_unchanged()

    def norms(self, model_id: int, key: str, axis: str) -> Norms:
        """Return the norms of a key that was read, along "rows" or "columns"; empty: none."""
        rows, columns = self._found.get((model_id, key), (NO_NORMS, NO_NORMS))
        return rows if axis == "rows" else columns

    def _ref(self, model_id: int, key: str) -> TensorRef:
        sources, transposed = self._keys[model_id, key]
        return assemble_ref(self._files[model_id].tensors, sources, transposed)
