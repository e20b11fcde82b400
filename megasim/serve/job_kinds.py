"""The kinds of jobs: what each may be asked, and what it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from megasim.errors import MegasimError, UsageError, printable
from megasim.progress import Progress
from megasim.serve.refusals import Refusal
from megasim.serve.settings import Settings
from megasim.workspace import Workspace

_MOST = 10_000
Names = Annotated[list[str], Field(max_length=_MOST)]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Ingest(_Asked):
    """Fingerprint checkpoints: files or folders below the folders that the service was given."""

    kind: Literal["ingest"]
    paths: Annotated[list[str], Field(max_length=_MOST, examples=[["sd15.safetensors"]])] = []
    names: Annotated[dict[str, str], Field(max_length=_MOST, description="Name to path.")] = {}
    reread: bool = False
    header: Annotated[bool, Field(description="Read headers alone.")] = False
    sample: Annotated[
        str | None, Field(max_length=20, examples=["256M", "5%"], description="Read a sample.")
    ] = None
    sketch_size: Annotated[int, Field(ge=16, le=65536)] = 256


class Compare(_Asked):
    """Compute the exact distances still missing, of all models or of some."""

    kind: Literal["compare"]
    models: Names | None = None
    groups: Names | None = None
    metrics: Annotated[list[Literal["linf", "cossim"]], Field(max_length=2)] = []
    nearest: Annotated[int | None, Field(ge=1)] = None
    component: str = "all"
    estimate: bool = False


class Import(_Asked):
    """Import published results, fingerprints or shards, from paths as for `ingest`."""

    kind: Literal["import"]
    paths: Annotated[list[str], Field(min_length=1, max_length=_MOST)]


class ReportJob(_Asked):
    """Write the report as one page, to be fetched from the job."""

    kind: Literal["report"]
    models: Names | None = None
    components: Names | None = None
    path: Names | None = None


class Forget(_Asked):
    """Forget models; their files are not touched."""

    kind: Literal["forget"]
    models: Annotated[list[str], Field(min_length=1, max_length=_MOST)]


class Know(_Asked):
    """Give a component of a model a name, by which it is recognised."""

    kind: Literal["know"]
    name: str
    model: str
    component: str = "vae"


class Unknow(_Asked):
    """Forget the name of a component."""

    kind: Literal["unknow"]
    name: str


Asked = Annotated[
    Ingest | Compare | Import | ReportJob | Forget | Know | Unknow, Field(discriminator="kind")
]
KINDS: Mapping[str, type[_Asked]] = {
    "ingest": Ingest,
    "compare": Compare,
    "import": Import,
    "report": ReportJob,
    "forget": Forget,
    "know": Know,
    "unknow": Unknow,
}
# What takes something away is for who started the service.
FOR_OWNER = frozenset({"forget", "know", "unknow"})


@dataclass(frozen=True)
class Work:
    """What a job works with."""

    workspace: Workspace
    executor: Callable[[], Executor]
    progress: Progress
    folder: Path  # for what it writes


def checked(asked: Any, settings: Settings, *, is_owner: bool) -> dict[str, Any]:
    """Return the arguments of a job as they are kept, its paths in full.

    Raises:
        Refusal: it is not allowed to who asks.
    """
    arguments: dict[str, Any] = asked.model_dump(exclude={"kind"})
    if asked.kind in FOR_OWNER and not is_owner:
        raise Refusal(
            403,
            f"{asked.kind} is for who started the service",
            f"run `megasim {asked.kind}` on the machine of the service",
        )
    if isinstance(asked, Ingest):
        if not (asked.paths or asked.names or asked.reread):
            raise UsageError("no path given", "name files or folders")
        arguments["paths"] = [place_of(path, settings, is_owner) for path in asked.paths]
        arguments["names"] = {
            name: place_of(path, settings, is_owner) for name, path in asked.names.items()
        }
    if isinstance(asked, Import):
        arguments["paths"] = [place_of(path, settings, is_owner) for path in asked.paths]
    return arguments


def place_of(text: str, settings: Settings, is_owner: bool) -> str:
    """Return a path in full: below the folders of the service, unless its owner asks.

    Whether something is there is not told of any other place.
    """
    folders = [folder.resolve() for folder in settings.models]
    try:
        places = [(folder / text).resolve() for folder in folders] or [Path(text).resolve()]
    except (OSError, ValueError, RuntimeError):
        raise UsageError(f"{printable(text, 400)} is no path", "name a file or folder") from None
    if is_owner and Path(text).is_absolute():
        return str(places[0])
    inside = [p for p in places if any(p.is_relative_to(folder) for folder in folders)]
    for place in inside:
        if place.exists():
            return str(place)
    if inside:
        raise UsageError(f"nothing found at {printable(text, 400)}", "check the path")
    raise Refusal(
        403,
        f"{printable(text, 400)} is not below a folder that the service was given",
        "start it with --models FOLDER, or name a path below "
        + (" or ".join(printable(folder, 200) for folder in folders) or "one"),
    )


def run_job(kind: str, arguments: Mapping[str, Any], work: Work) -> dict[str, Any]:
    """Do a job and return its result.

    Raises:
        MegasimError: it cannot be done.
        Stopped: its progress was told to stop; what was done is saved.
    """
    asked = KINDS[kind].model_validate({"kind": kind, **arguments})
    workspace, progress = work.workspace, work.progress
    if isinstance(asked, Ingest):
        return workspace.ingest(
            *asked.paths,
            names={name: Path(path) for name, path in asked.names.items()},
            reread=asked.reread,
            header=asked.header,
            sample=asked.sample,
            sketch_size=asked.sketch_size,
            executor=work.executor(),
            progress=progress,
        ).to_json()
    if isinstance(asked, Compare):
        return workspace.compare(
            models=asked.models,
            groups=asked.groups,
            metrics=asked.metrics,
            nearest=asked.nearest,
            component=asked.component,
            estimate=asked.estimate,
            executor=work.executor(),
            progress=progress,
        ).to_json()
    if isinstance(asked, Import):
        return workspace.import_path(*asked.paths, progress=progress).to_json()
    if isinstance(asked, ReportJob):
        page = work.folder / "report.html"
        result = workspace.report(
            page,
            models=asked.models,
            components=asked.components,
            path=asked.path,
            one_file=True,
            progress=progress,
        )
        return {"lead": list(result.lead), "bytes": result.bytes}
    if isinstance(asked, Forget):
        return {"bytes_free": workspace.forget(*asked.models)}
    if isinstance(asked, Know):
        found = workspace.add_known(asked.name, asked.model, asked.component)
        return {"known": [known.to_json() for known in found]}
    if isinstance(asked, Unknow):
        return {"removed": workspace.remove_known(asked.name)}
    raise MegasimError(f"no such kind of job: {printable(kind)!r}")
