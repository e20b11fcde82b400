"""The sections of a report about directions: the map with its verdict, and trajectories."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from megasim.anatomy.classification import component_title
from megasim.errors import NoAnswerError, printable
from megasim.geometry.chains import Chain, find_chains
from megasim.geometry.comparable import one_architecture, over_the_same_keys
from megasim.geometry.map import MapResult, map_models
from megasim.geometry.plane_test import TOO_FEW, distinct_models
from megasim.geometry.trajectory import (
    Trajectory,
    layer_groups,
    layer_trajectories,
    step_table,
    summary_table,
    trajectory,
)
from megasim.matrix.distance_matrix import DistanceMatrix, LayerMatrices
from megasim.plots.interactive_map import map_picture
from megasim.plots.map import map_figure
from megasim.plots.trajectory import trajectory_figure
from megasim.report.parts import (
    Block,
    Details,
    Section,
    answer_file,
    file_name,
    frame_file,
    note,
    picture,
    say,
    table,
)
from megasim.report.source import ReportSource
from megasim.wording.sentences import counted

_MOST_MAPS = 3
_WORTH_A_MAP = 7  # different contents; of the first component, any number
_MOST_CHAINS = 4
# Among more models, a number in a name is more often an index than a version; epochs stay.
_MOST_VERSIONED = 60


def map_section(source: ReportSource) -> Section:
    """Return the map of the models for each component, the verdict of the flat-plane test first."""
    blocks: list[Block] = []
    lead: tuple[str, ...] = ()
    drawn = 0
    for component in source.components:
        if drawn == _MOST_MAPS:
            break
        try:
            found = _map(source, component)
        except NoAnswerError as error:
            if source.matrix(component).condensed().any():  # equal models need no map
                blocks.append(note(_sentence(error.message)))
            continue
        distinct = distinct_models(np.square(found.matrix.values))
        if drawn and distinct < _WORTH_A_MAP:
            title = printable(component_title(component))
            blocks.append(note(f"{title}: {distinct} different ones are too few for a map."))
            continue
        drawn += 1
        blocks += _map_blocks(source, component, found)
        lead = lead or _map_lead(component, found)
    if not blocks:
        blocks.append(note("There is no map: no component is known that differs."))
    return Section("map", "Map of directions", tuple(blocks), lead)


def _map(source: ReportSource, component: str) -> MapResult:
    whole = source.matrix(component)
    n = len(whole.models)
    # the same models as `megasim map` shows, but for those that were not compared with all others
    alike, left_out = one_architecture(whole)
    matrix = alike.largest_complete()
    if len(matrix.models) < min(n, 3):
        title = printable(component_title(component))
        raise NoAnswerError(
            f"{title}: of {counted(n, 'model')}, no three were all compared with each other over "
            "the same keys, which a map needs",
            "run `megasim compare`",
        )
    path = [name for name in source.path if name in matrix.models]
    layers = source.layers(component, matrix.models)
    why = "No layer has known distances, so nothing is said of single layers."
    if matrix.keys_compared.any():
        why = (
            f"The layers of so many models are not looked into; `megasim map -c {component} "
            "--models …` does it for some."
        )
    return map_models(
        matrix,
        path=path if len(path) > 1 else (),
        layers=layers,
        without_layers=why,
        left_out=left_out,
        quantised=source.quantised_copies(component, matrix.models),
    )


def _map_blocks(source: ReportSource, component: str, found: MapResult) -> list[Block]:
    answer = source.ask("report_distances", components=source.members(component))
    name = file_name("map", component)
    title = printable(component_title(component))
    n, whole = len(found.models), len(source.matrix(component).models)
    caption = f"{title}: classical MDS of the L2 distances of {counted(n, 'model')}"
    if n < whole:
        caption += f" of {whole}, those compared with each other over the same keys"
    walk = "the path" if found.walk.kind == "path" else "the spanning tree"
    caption += f". Lines are {walk}; colour is the third axis."
    files = [
        frame_file(name, found.to_frame().reset_index(), "coordinates and steps"),
        answer_file(file_name("distances", component), answer),
    ]
    if found.layers is not None:
        by_layer = found.layers.to_frame()
        files.append(frame_file(f"{name}-layers", by_layer, "the same figures layer by layer"))
    verdict = [f"{title}: {found.verdict}.", *found.evidence[:1]]
    return [
        say(*verdict),
        picture(
            map_figure(found),
            name,
            alt=f"Map of {counted(n, 'model')} by their {title} distances: {found.verdict}",
            caption=caption,
            files=files,
            item=map_picture(found).item if source.interactive else "",
        ),
        Details("The evidence, and what it does not show", ((title, found.evidence),)),
    ]


def _map_lead(component: str, found: MapResult) -> tuple[str, ...]:
    title = printable(component_title(component))
    n = len(found.models)
    if found.verdict == TOO_FEW:
        return ()
    share = f"two axes hold {100 * found.planarity:.0f} % of the variance"
    unrelated = f"unrelated steps would give {100 * found.orthogonal_walk:.0f} %"
    return (f"{title} map of {n} models: {found.verdict}; {share}, {unrelated}.",)


def trajectory_section(source: ReportSource) -> Section:
    """Return the chains: how far each step goes, and whether the steps keep their direction."""
    title = "Trajectories"
    chains = find_chains(source.models)
    if len(source.models) > _MOST_VERSIONED:
        chains = [chain for chain in chains if chain.is_run]
    if source.path:
        chains = [Chain(source.path, "the path", True)]
    blocks: list[Block] = []
    for component in source.components[:1]:
        for chain in chains:
            if len(blocks) < 2 * _MOST_CHAINS:
                blocks += _chain_blocks(source, component, chain)
    if blocks:
        return Section("trajectories", title, tuple(blocks))
    text = "No names form a numbered series of three or more models; give one with --path."
    if chains:
        text = "Not all distances along the series given by the names are known."
    return Section("trajectories", title, (note(text),))


def _chain_blocks(source: ReportSource, component: str, chain: Chain) -> list[Block]:
    whole = source.matrix(component)
    if not set(chain.models) <= set(whole.models):
        return []
    matrix = whole.subset(chain.models)
    steps = np.diagonal(over_the_same_keys(matrix).values, 1)
    if np.isnan(steps).any() or not steps.any():
        return []
    found = _trajectories(matrix, chain, source.layers(component, chain.models))
    name = file_name("steps", component, chain.label)
    members = source.members(component)
    files = [frame_file(name, step_table(found), "steps, sums and turns")]
    roles = source.ask("report_chain_roles", components=members, path=chain.models)
    if len(roles.frame):
        files.append(answer_file(f"{name}-roles", roles))
    chain_pairs = source.ask("report_chain", components=members, path=chain.models)
    files.append(answer_file(f"{name}-pairs", chain_pairs))
    label = printable(chain.label, 60)
    kind = "" if source.path else ", a series by the number in its names"
    title = printable(component_title(component))
    # the figures of a direction are read to three digits, lengths to four
    summary = summary_table(found).round({"coherence": 4}).reset_index()
    return [
        picture(
            trajectory_figure(found),
            name,
            alt=f"Trajectory of {counted(len(chain.models), 'model')}: {label}",
            caption=f"{label}{kind}: {counted(len(chain.models), 'model')}, {title}, L2 distance. "
            "Coherence is 0 for steps at right angles and 1 for a straight line.",
            files=files,
        ),
        table(summary, caption=f"Steps of {label}, in L2."),
    ]


def _trajectories(
    matrix: DistanceMatrix, chain: Chain, layers: LayerMatrices | None
) -> list[Trajectory]:
    found = [trajectory(matrix, chain.models)]
    groups = layer_groups(layers, "attention") if layers is not None else {}
    if layers is not None and len(groups) > 1:
        # layers that are not known all along the chain say nothing of it
        with suppress(NoAnswerError):
            found += layer_trajectories(layers, chain.models, groups)
    return found


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."
