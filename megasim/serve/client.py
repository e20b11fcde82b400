"""A store that a service has open, with the methods of one that is open here.

What only reads is worked out here: the statements of `sql/` are answered by the service, all of
them as of one moment, so every method gives what it gives on an opened store. What changes the
store is a job of the service, and waited for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from megasim.errors import MegasimError, StoreServedError, UsageError, require_extra
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.rows import Store
from megasim.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from megasim.compare.result import CompareResult
    from megasim.exchange.fingerprint_file import ImportResult
    from megasim.findings.known_components import KnownComponent
    from megasim.ingest.missing_files import MissingFiles
    from megasim.ingest.result import IngestResult
    from megasim.serve.remote_store import ServiceConnection

T = TypeVar("T")


class FailedThereError(MegasimError):
    """What a job of the service could not read; the rest is saved."""

    exit_code = 4


def connect(address: str, token: str = "") -> RemoteWorkspace:
    """Return the store that a service serves, with the methods of an opened one.

    Args:
        address: as `megasim serve` prints it.
        token: as the service asks for it; one in the address is taken, too.

    Raises:
        MissingExtraError: what the extra `serve` brings is not installed.
        MegasimError: nothing answers there, the token is wrong, or it is of another version.
    """
    require_extra("serve", "megasim.connect")
    from megasim.serve.remote_store import ServiceConnection, remote_lease

    service = ServiceConnection(address, token)
    try:
        store = Store.over(remote_lease(service))
    except BaseException:
        service.close()
        raise
    workspace = RemoteWorkspace.over(store)
    workspace.service = service
    return workspace


class RemoteWorkspace(Workspace):
    """The store of a service. Use it as a context manager.

    All that is read is of the moment when it was connected, until `refresh`, or a job that was
    waited for here.
    """

    service: ServiceConnection

    def close(self) -> None:
        """End the session."""
        super().close()
        self.service.close()

    def refresh(self) -> None:
        """From here on read the store as it is now."""
        from megasim.serve.remote_store import remote_lease

        self.store.close()
        self.store = Store.over(remote_lease(self.service))

    # What changes the store

    def job(
        self, kind: str, *, progress: Progress = NO_PROGRESS, **arguments: Any
    ) -> Mapping[str, Any]:
        """Ask for a job, wait for its end, and return its result; Ctrl-C cancels it.

        Raises:
            MegasimError: it failed, or was cancelled; what it had done is saved.
        """
        asked = self.service.json("POST", "jobs", {"kind": kind, **arguments})
        try:
            job = self._ended(int(asked["id"]), progress)
        except BaseException:
            with suppress(MegasimError):
                self.service.json("DELETE", f"jobs/{asked['id']}")
            raise
        self.refresh()
        if job["state"] != "done":
            what = job["error"] or f"the job is {job['state']}; what it has done is kept"
            raise MegasimError(str(what), str(job["remedy"] or ""))
        return dict(job["result"])

    def _ended(self, job_id: int, progress: Progress) -> Mapping[str, Any]:
        """Follow a job to its end, and return it."""
        title, done = "", 0
        job: Mapping[str, Any] = {}
        try:
            for job in self.service.events(f"jobs/{job_id}/events"):
                told = job["progress"]
                if not told:
                    continue
                if told["title"] != title or told["done"] < done:
                    title, done = told["title"], 0
                    progress.start(title, told["total"], told["unit"])
                progress.advance(told["done"] - done)
                done = told["done"]
        finally:
            progress.finish()
        if job.get("state") in (None, "waiting", "running"):
            raise MegasimError(
                "the service ended before the job did",
                "what was done is kept; the job goes on when the service is started again",
            )
        return job

    def ingest(
        self,
        *paths: Path | str,
        names: Mapping[str, Path] | None = None,
        anatomy: Path | None = None,
        sketch_size: int = 256,
        reread: bool = False,
        header: bool = False,
        sample: str | None = None,
        workers: int | None = None,
        executor: Executor | None = None,
        cluster: str | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> IngestResult:
        """Fingerprint checkpoints, read by the service. See `StoreJobs.ingest`.

        Args:
            paths: as the machine of the service has them.
            workers, executor: have no meaning: the service decides.

        Raises:
            UsageError: what a service does not take: rules for keys, a cluster.
        """
        from megasim.ingest.result import IngestResult

        _not_taken(anatomy=anatomy, cluster=cluster)
        found = self.job(
            "ingest",
            progress=progress,
            paths=[_whole(path) for path in paths],
            names={name: _whole(path) for name, path in (names or {}).items()},
            sketch_size=sketch_size,
            reread=reread,
            header=header,
            sample=sample,
        )
        return _result(IngestResult, found, "failed", "passed_over")

    def compare(
        self,
        *,
        models: Sequence[str] | None = None,
        groups: Iterable[str] | None = None,
        model_map: Path | None = None,
        metrics: Sequence[str] = (),
        nearest: int | None = None,
        component: str = "all",
        estimate: bool = False,
        device: str | None = None,
        workers: int | None = None,
        executor: Executor | None = None,
        cluster: str | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> CompareResult:
        """Compute the exact distances still missing, by the service. See `StoreJobs.compare`."""
        from megasim.compare.result import CompareResult

        _not_taken(device=device, model_map=model_map, cluster=cluster)
        found = self.job(
            "compare",
            progress=progress,
            models=self._names(models),
            groups=None if groups is None else list(groups),
            metrics=list(metrics),
            nearest=nearest,
            component=component,
            estimate=estimate,
        )
        return _result(CompareResult, found, "failed")

    def import_path(self, *paths: Path | str, progress: Progress = NO_PROGRESS) -> ImportResult:
        """Import published results, fingerprints or shards, read by the service."""
        from megasim.exchange.fingerprint_file import ImportResult

        found = self.job("import", progress=progress, paths=[_whole(path) for path in paths])
        return _result(ImportResult, found, "failed")

    def forget(self, *models: str) -> int:
        """Forget models. See `StoreJobs.forget`."""
        names = self.store.model_names(models)
        return int(self.job("forget", models=names)["bytes_free"])

    def add_known(self, name: str, model: str, component: str = "vae") -> list[KnownComponent]:
        """Give a component of a model a name. See `StoreFindings.add_known`."""
        before = {known.name for known in self.known()} - {name}
        self.job("know", name=name, model=self._name(model), component=component)
        return [known for known in self.known() if known.name not in before]

    def remove_known(self, name: str) -> int:
        """Forget the name of a component; return how many components had it."""
        return int(self.job("unknow", name=name)["removed"])

    # What is not of the store alone

    def missing_files(self) -> MissingFiles:
        """Return the models whose files are gone from the machine of the service."""
        from megasim.ingest.missing_files import MissingFiles

        found = self.service.json("GET", "missing_files")
        return MissingFiles(tuple(found["gone"]), tuple(found["unreachable"]))

    def nearest(
        self,
        model: str | Path,
        components: Sequence[str] | None = None,
        *,
        k: int = 5,
        progress: Progress = NO_PROGRESS,
    ) -> pd.DataFrame:
        """Return the models nearest to one of the store. See `Workspace.nearest`.

        Raises:
            StoreServedError: it is a file; to look at one, the store must be opened here.
        """
        if str(model) not in self.store.model_ids() and Path(model).exists():
            raise StoreServedError(
                "the store", self.service.address, "ingest the file and ask for its model"
            )
        return super().nearest(model, components, k=k, progress=progress)

    def export_fingerprints(
        self,
        path: Path | str,
        *,
        models: Sequence[str] | None = None,
        component: str = "all",
        names: Mapping[str, str] | None = None,
    ) -> int:
        """Refuse: a service writes no files for programs.

        Raises:
            StoreServedError: always.
        """
        raise StoreServedError(
            "the store", self.service.address, f"ask it for tables: {self.service.address}/sql"
        )


def _not_taken(**given: object) -> None:
    """Refuse what a job of a service cannot be told."""
    for name, value in given.items():
        if value is not None:
            raise UsageError(
                f"a service takes no {name.replace('_', ' ')}", "stop it, and run this without it"
            )


def _whole(path: Path | str) -> str:
    """Return a path in full, since the service runs in another folder."""
    return str(Path(path).absolute())


def _result(kind: type[T], found: Mapping[str, Any], *errors: str) -> T:
    """Return the result of a job as the value that the method gives."""
    given = {f.name: found[f.name] for f in fields(cast(Any, kind)) if f.name in found}
    for name in errors:
        given[name] = [FailedThereError(text) for text in given.get(name, [])]
    return kind(**given)
