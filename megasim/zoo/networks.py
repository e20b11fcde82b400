"""The demo's other networks: a small Llama family, and the training of a convolutional network."""

from __future__ import annotations

from megasim.zoo.history import ZooModel, with_contents

_LAYERS = "model."


def _llama(name: str, story: str, **how: object) -> ZooModel:
    settings: dict[str, object] = {
        "name": name,
        "file": f"{name}.safetensors",
        "story": story,
        "family": "llama",
        "dtype": "bfloat16",
        "parents": ("llama-base",),
        **how,
    }
    return ZooModel(**settings)  # type: ignore[arg-type]


def _cnn_run() -> list[ZooModel]:
    return [
        ZooModel(
            name=f"cnn-e{i:02}",
            file=f"cnn-e{i:02}.pth",
            kind="epoch" if i > 1 else "base",
            story="one epoch of four of a network with BatchNorm",
            parents=(f"cnn-e{i - 1:02}",) if i > 1 else (),
            family="cnn",
            dtype="float32",
            trains=("conv", "bn", "layer", "fc") if i > 1 else (),
            step=0.05,
            drift=0.3,
            toward="cnn",
            batches=1000 * i,
        )
        for i in range(1, 5)
    ]


NETWORKS: tuple[ZooModel, ...] = with_contents(
    [
        _llama(
            "llama-base",
            "a language model of the Llama form",
            kind="base",
            parents=(),
            dtype="float32",
        ),
        _llama("llama-bf16", "llama-base in bfloat16", kind="cast"),
        _llama(
            "llama-fp8",
            "llama-bf16 with the matrices of its layers in FP8, one scale each",
            kind="quantised",
            parents=("llama-bf16",),
            dtype="float8",
        ),
        _llama(
            "llama-permuted",
            "llama-bf16 with the hidden units of its feed-forward parts in another order",
            kind="permuted",
            parents=("llama-bf16",),
        ),
        _llama(
            "llama-chat",
            "llama-base trained further",
            kind="fine-tune",
            trains=(_LAYERS,),
            step=0.08,
        ),
        _llama(
            "llama-code",
            "llama-base trained further on something else",
            kind="fine-tune",
            trains=(_LAYERS,),
            step=0.06,
        ),
        _llama(
            "llama-merged",
            "60 % llama-chat and 40 % llama-code",
            kind="merge",
            parents=("llama-chat", "llama-code"),
            weights=(0.6, 0.4),
        ),
        _llama(
            "llama-lora",
            "an adapter for llama-base, as PEFT writes it",
            kind="adapter",
            file="llama-lora",
            layout="peft",
            dtype="float32",
        ),
        _llama(
            "llama-with-lora",
            "llama-bf16 with the adapter baked in at 0.7",
            kind="baked",
            parents=("llama-bf16", "llama-lora"),
            strength=0.7,
        ),
        *_cnn_run(),
        ZooModel(
            name="cnn-training",
            file="cnn-training.pt",
            kind="training",
            story="the last epoch as the run keeps it: with an EMA copy and the state of Adam",
            parents=("cnn-e04",),
            family="cnn",
            dtype="float32",
            layout="training",
            metadata={"epoch": 4, "global_step": 4000},
        ),
    ]
)
"""Language models and convolutional networks of known history, in the order they are made."""
