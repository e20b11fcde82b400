"""Too few models, none that differ, gaps: a sentence and an exit code, from real processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from megasim.store.rows import Store
from tests.simulated_store import simulate_store

NAMES = ["a", "b", "c", "d", "e"]
SHAPES = {
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight": (8, 8),
    "model.diffusion_model.input_blocks.1.0.in_layers.2.weight": (8, 8, 3, 3),
    "model.diffusion_model.out.2.bias": (4,),
    "cond_stage_model.transformer.text_model.final_layer_norm.weight": (8,),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five models with one text encoder between them; a and b were not compared."""
    path = tmp_path_factory.mktemp("edge") / "s.duckdb"
    simulate_store(path, NAMES, SHAPES, shared={"text_encoder": 1})
    with Store(path, "write") as opened:
        for table in ("component_distance", "model_pair"):
            opened.connection.execute(f"delete from {table} where model_a = 1 and model_b = 2")
    return path


@pytest.mark.parametrize(
    ("command", "code", "sentence"),
    [
        ("map --models b,c,d -o OUT.png", 0, "unet: too few models"),
        ("map --models b", 1, "only one model has the component unet"),
        ("map -c te --models b,c,d -o OUT.png", 1, "all 3 models are identical in te"),
        ("map -c nobody -o OUT.png", 1, "nobody"),
        ("histogram c d -c nobody -o OUT.png", 1, "nobody"),
        ("map -o OUT.png", 1, "1 of 10 pairs have no l2 distance for unet, the first is a × b"),
        ("map --complete -o OUT.png", 0, "1 of 10 pairs were missing and are filled in"),
        ("trajectory a b c -o OUT.png", 1, "the step a → b has no l2 distance for unet"),
        ("trajectory c a b", 1, "run `megasim compare --models a,b`, or leave one out"),
        ("heatmap -o OUT.png", 0, "wrote"),
    ],
)
def test_a_sentence_and_no_empty_picture(
    store: Path, tmp_path: Path, command: str, code: int, sentence: str
) -> None:
    out = tmp_path / "out.png"
    words = [str(out) if word == "OUT.png" else word for word in command.split()]
    done = subprocess.run(
        [sys.executable, "-m", "megasim.cli", "--db", str(store), *words],
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    assert sentence in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert out.exists() == (code == 0 and "OUT.png" in command)


@pytest.mark.parametrize("command", ["map --models b,c,d", "trajectory b c d", "lineage"])
def test_a_reader_that_leaves_early_does_not_cost_the_picture(
    store: Path, tmp_path: Path, command: str
) -> None:
    out = tmp_path / "out.png"
    words = ["--db", str(store), *command.split(), "-o", str(out)]
    with subprocess.Popen(
        [sys.executable, "-m", "megasim.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
    assert out.exists()


def test_a_report_of_one_model(store: Path, tmp_path: Path) -> None:
    words = ["report", "--models", "b", "-o", str(tmp_path / "report")]
    done = subprocess.run(
        [sys.executable, "-m", "megasim.cli", "--db", str(store), *words],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    page = (tmp_path / "report" / "index.html").read_text()
    assert "<h1>One model</h1>" in page
    assert "only b has it" in page
    assert "<img" not in page
