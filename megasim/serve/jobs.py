"""The queue of jobs: kept in the store, done one after another by one thread."""

from __future__ import annotations

import json
import logging
import secrets
import shutil
import threading
from collections.abc import Mapping
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from megasim.errors import MegasimError, printable
from megasim.serve.job_kinds import Work, run_job
from megasim.serve.job_progress import JobProgress, Stopped
from megasim.serve.refusals import Refusal, as_megasim_error
from megasim.serve.settings import Settings
from megasim.store.owner import StoreOwner
from megasim.store.statements import statement
from megasim.words import JobState
from megasim.workspace import Workspace
from megasim.workspace.jobs import usable_cores
from megasim.workspace.worker_processes import worker_processes

_log = logging.getLogger("megasim.serve")
# A job that ended the service so often is not begun again.
_MOST_ATTEMPTS = 3
# How long the end of the service waits for a job to save what it has.
_END_SECONDS = 30.0
_MOST_WAITING = 1_000
# Of the processes that read checkpoints: what waits for an answer comes first, and what one of them
# breaks off with, the service survives.
_NICENESS = 10
# How long, and how many of, the jobs that are over can be looked at, with what they wrote.
_KEPT_DAYS = 30
_MOST_KEPT = 1_000


@dataclass(frozen=True)
class Job:
    """A row of the table `job`, and how far the job is if it runs."""

    id: int
    kind: str
    arguments: Mapping[str, Any]
    state: JobState
    attempts: int
    asked_at: str
    began_at: str | None
    ended_at: str | None
    result: Mapping[str, Any] | None
    error: str | None
    remedy: str | None
    progress: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as the API has it."""
        return {**vars(self), "state": str(self.state)}


class Jobs:
    """The jobs of a store, and the thread that does them."""

    def __init__(self, owner: StoreOwner, settings: Settings, folder: Path) -> None:
        """Take up the queue as it was left. See `start`.

        Args:
            folder: for what jobs write and are given, one folder in it for each.
        """
        self._owner, self._settings, self.folder = owner, settings, folder
        self._cursor = owner.cursor()
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._ending = self._is_busy = False
        self._running: tuple[int, JobProgress] | None = None
        self._cancelled: set[int] = set()
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)
        for job_id, attempts in self._rows("left_running"):
            if attempts < _MOST_ATTEMPTS:
                self._rows("wait_again", id=job_id)
            else:
                self._end(
                    job_id,
                    JobState.INTERRUPTED,
                    error=f"the service ended {attempts} times in the middle of this job",
                    remedy="what it saved is kept; the log of the service may say why",
                )
        self._forget_old()

    def start(self) -> None:
        """Begin to do what waits."""
        self._thread.start()

    def close(self) -> None:
        """Stop the job that runs, so that it goes on when the service is started again."""
        with self._lock:
            self._ending = True
            if self._running:
                self._running[1].stop()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(_END_SECONDS)
        with self._lock:
            self._cursor.close()

    # What people ask

    def ask(self, kind: str, arguments: Mapping[str, Any], upload: Path | None = None) -> Job:
        """Put a job at the end of the queue.

        Args:
            upload: a file that becomes the job's own, and what it is to import.
        """
        with self._lock:
            waiting = dict(self._rows("jobs_of_states")).get("waiting", 0)
            if waiting >= _MOST_WAITING:
                raise Refusal(503, f"{waiting:,} jobs are waiting", "cancel some, or wait")
            given = dict(arguments)
            if upload is not None:
                # its folder is there before the job is: a job without its file cannot be done
                place = self.folder / secrets.token_hex(16) / upload.name
                place.parent.mkdir(parents=True)
                upload.rename(place)
                given["paths"] = [str(place)]
            ((job_id,),) = self._rows("add_job", kind=kind, arguments=json.dumps(given))
        self._wake.set()
        return self.job(job_id)

    def cancel(self, job_id: int) -> Job:
        """Let a job end: at once if it waits, soon if it runs; what is done is kept.

        Raises:
            Refusal: there is no such job, or it is over.
        """
        with self._lock:
            job = self.job(job_id)
            if job.state.is_over:
                raise Refusal(409, f"job {job_id} is over: {job.state}", "there is nothing to do")
            self._rows("cancel_waiting", id=job_id)
            self._cancelled.add(job_id)
            if self._running and self._running[0] == job_id:
                self._running[1].stop()
        return self.job(job_id)

    def job(self, job_id: int) -> Job:
        """Return a job.

        Raises:
            Refusal: there is no such job.
        """
        with self._lock:
            found = self._rows("job", id=job_id) if 0 <= job_id < 1 << 31 else []
            if not found:
                raise Refusal(404, f"there is no job {job_id}", "see /api/v1/jobs")
            return self._job_of(found[0])

    def newest(self, most: int) -> list[Job]:
        """Return the newest jobs, the newest first."""
        with self._lock:
            return [self._job_of(row) for row in self._rows("jobs", most=most)]

    def counts(self) -> dict[str, int]:
        """Return how many jobs there are of each state."""
        with self._lock:
            return {str(state): int(count) for state, count in self._rows("jobs_of_states")}

    @property
    def is_busy(self) -> bool:
        """Whether a job runs, or the next is about to."""
        return self._is_busy

    def folder_of(self, job_id: int) -> Path:
        """Return where what a job writes lies."""
        return self.folder / str(job_id)

    def _job_of(self, row: tuple[Any, ...]) -> Job:
        job_id, kind, arguments, state, attempts, asked, began, ended, result, error, remedy = row
        progress = None
        if self._running and self._running[0] == job_id:
            progress = self._running[1].to_json()
        return Job(
            job_id,
            kind,
            json.loads(arguments),
            JobState(state),
            attempts,
            _in_utc(asked),
            None if began is None else _in_utc(began),
            None if ended is None else _in_utc(ended),
            None if result is None else json.loads(result),
            error,
            remedy,
            progress,
        )

    # How they are done

    def _work(self) -> None:
        while True:
            self._wake.clear()
            with self._lock:
                if self._ending:
                    return
                found = self._rows("next_job")
                job = self._job_of(found[0]) if found else None
                progress = JobProgress()
                self._is_busy = job is not None
                if job is not None:
                    self._rows("begin_job", id=job.id)
                    self._running = (job.id, progress)
            if job is None:
                self._wake.wait()
                continue
            try:
                self._do(job, progress)
            except Exception:
                _log.exception("job %d could not be noted", job.id)
            finally:
                with self._lock:
                    self._running = None
                    self._cancelled.discard(job.id)

    def _do(self, job: Job, progress: JobProgress) -> None:
        """Do a job and note what became of it."""
        ended: dict[str, Any]
        try:
            ended = {"state": JobState.DONE, "result": self._result(job, progress)}
        except Stopped:
            with self._lock:
                if job.id not in self._cancelled:  # the service ends
                    self._rows("wait_again", id=job.id)
                    return
            ended = {"state": JobState.CANCELLED}
        except BrokenProcessPool:
            ended = {
                "state": JobState.FAILED,
                "error": "a process that read a checkpoint ended without a word",
                "remedy": "what was saved is kept; it may have needed more memory than there is",
            }
        except (MegasimError, duckdb.Error) as error:
            known = as_megasim_error(error)
            ended = {"state": JobState.FAILED, "error": known.message, "remedy": known.remedy}
        except Exception as error:
            _log.exception("job %d failed", job.id)
            text = f"megasim failed: {type(error).__name__}: {printable(error, 300)}"
            ended = {
                "state": JobState.FAILED,
                "error": text,
                "remedy": "the log of the service says where",
            }
        self._end(job.id, **ended)
        _log.info("job %d (%s): %s", job.id, printable(job.kind, 40), ended["state"])

    def _result(self, job: Job, progress: JobProgress) -> dict[str, Any]:
        folder = self.folder_of(job.id)
        with ExitStack() as held:
            if job.kind in ("report", "import"):
                folder.mkdir(parents=True, exist_ok=True)

            def executor() -> Executor:
                workers = self._settings.workers or usable_cores()
                return held.enter_context(worker_processes(workers, _NICENESS))

            is_reading = job.kind == "report"
            store = self._owner.reading()[0] if is_reading else self._owner.writing()
            memory = self._settings.job_memory
            workspace = held.enter_context(Workspace.over(store, memory=memory))
            arguments = dict(job.arguments)
            if job.kind == "import":
                given = map(Path, arguments["paths"])
                readable = [self._readable(path, i, folder) for i, path in enumerate(given)]
                arguments["paths"] = list(map(str, readable))
            result = run_job(job.kind, arguments, Work(workspace, executor, progress, folder))
        if job.kind == "import":  # what was brought is in the store now
            shutil.rmtree(folder, ignore_errors=True)
            for path in map(Path, job.arguments["paths"]):
                if path.is_relative_to(self.folder):
                    shutil.rmtree(path.parent, ignore_errors=True)
        return result

    def _readable(self, path: Path, place: int, folder: Path) -> Path:
        """Return a file to import where the database may read it: in the folder of its job."""
        if path.suffix.lower() != ".parquet" or path.is_relative_to(self.folder):
            return path
        copy = folder / str(place) / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        return copy

    def _end(
        self,
        job_id: int,
        state: JobState,
        result: Mapping[str, Any] | None = None,
        error: str | None = None,
        remedy: str | None = None,
    ) -> None:
        text = None if result is None else json.dumps(result, default=str)
        self._rows("end_job", id=job_id, state=str(state), result=text, error=error, remedy=remedy)
        self._forget_old()

    def _forget_old(self) -> None:
        """Forget jobs that were over long ago, and take away what they wrote."""
        for (job_id,) in self._rows("forget_old_jobs", days=_KEPT_DAYS, most=_MOST_KEPT):
            shutil.rmtree(self.folder_of(job_id), ignore_errors=True)

    def _rows(self, name: str, /, **values: Any) -> list[tuple[Any, ...]]:
        with self._lock:
            result = self._cursor.execute(statement(name), values or None)
            return result.fetchall()


def _in_utc(moment: datetime) -> str:
    return f"{moment.isoformat()}Z"
