"""The plans of the demo zoo and of the zoo of merges: what is made, and thereby what is true."""

from __future__ import annotations

from megasim.zoo.history import ZooModel, with_contents
from megasim.zoo.keys import MERGE_BLOCKS, TEXT_SD1, TEXT_SD2, UNET, VAE

_VAE_COMPONENTS = ("vae_encoder", "vae_decoder", "vae_quant")
_LATENT_MODEL = ("unet", "text_encoder", *_VAE_COMPONENTS)
_NAN_LAYER = UNET + "output_blocks.5.1.transformer_blocks.0.attn1.to_v.weight"


def _chain() -> list[ZooModel]:
    return [
        ZooModel(
            name=f"chain-{i}",
            file=f"chain-{i}.safetensors",
            kind="fine-tune",
            story="one step of five in unrelated directions, but for self-attention; UNet only",
            parents=(f"chain-{i - 1}" if i > 1 else "base-pruned",),
            trains=(UNET,),
            step=(0.06, 0.05, 0.03, 0.04, 0.02)[i - 1],
            drift=0.16,
            drift_keys=".attn1.",
            toward="chain",
            keeps=("unet",),
        )
        for i in range(1, 6)
    ]


def _run() -> list[ZooModel]:
    return [
        ZooModel(
            name=f"run-e{i:02}",
            file=f"run-e{i:02}.safetensors",
            kind="epoch",
            story="one epoch of five of a run that drifts in one direction",
            parents=(f"run-e{i - 1:02}" if i > 1 else "base-pruned",),
            trains=(UNET, TEXT_SD1),
            step=0.02,
            drift=0.35,
            toward="run",
            metadata={
                "ss_output_name": "run",
                "ss_sd_model_name": "base-pruned.ckpt",
                "ss_epoch": str(i),
                "ss_num_epochs": "5",
                "ss_steps": str(1200 * i),
            },
        )
        for i in range(1, 6)
    ]


def _mixes() -> list[ZooModel]:
    ends = [
        ZooModel(
            name=name,
            file=f"{name}.safetensors",
            kind="fine-tune",
            story="an end of the series of merges",
            parents=("base-pruned",),
            trains=(UNET, TEXT_SD1),
            step=step,
        )
        for name, step in (("mix-00", 0.07), ("mix-100", 0.09))
    ]
    between = [
        ZooModel(
            name=f"mix-{percent}",
            file=f"mix-{percent}.safetensors",
            kind="merge",
            story=f"{100 - percent} % mix-00 and {percent} % mix-100",
            parents=("mix-00", "mix-100"),
            weights=((100 - percent) / 100, percent / 100),
            claim={30: (0.7, 0.3), 70: (0.5, 0.5)}.get(percent, ()),
        )
        for percent in (15, 30, 50, 70, 85)
    ]
    by_block = ZooModel(
        name="mix-mbw",
        file="mix-mbw.safetensors",
        kind="block-merge",
        story="mix-00 and mix-100 merged with 25 ratios, one for each block",
        parents=("mix-00", "mix-100"),
        block_weights=spread_block_weights(0.35),
    )
    return [*ends, *between, by_block]


def spread_block_weights(base: float) -> dict[str, float]:
    """Return 25 different shares between 0.02 and 0.98 for the merge blocks, and `base`'s own.

    >>> len(set(spread_block_weights(0.35).values()))
    26
    """
    # 7 is coprime to 25, so neighbouring blocks differ much and no share comes twice.
    shares = {block: round(0.02 + 0.04 * (7 * i % 25), 2) for i, block in enumerate(MERGE_BLOCKS)}
    return {"BASE": base, **shares}


TRUTH: tuple[ZooModel, ...] = with_contents(
    [
        ZooModel(
            name="base-ema",
            file="base-ema.ckpt",
            kind="base",
            story="the base as its training left it: fp32, with EMA copy and training state",
            dtype="float32",
            trained_ema=True,
            metadata={"epoch": 13, "global_step": 470_000},
        ),
        ZooModel(
            name="base-pruned",
            file="base-pruned.ckpt",
            kind="pruned",
            story="the base without EMA copy and training state; keeps the raw UNet",
            parents=("base-ema",),
            dtype="float32",
            keeps=_LATENT_MODEL,
            metadata={"global_step": 470_000},
        ),
        ZooModel(
            name="base-emaonly",
            file="base-emaonly.safetensors",
            kind="pruned",
            story="the base pruned the other way: the UNet is the EMA copy",
            parents=("base-ema",),
            dtype="float32",
            keeps=_LATENT_MODEL,
            from_ema=True,
        ),
        ZooModel(
            name="base-fp16",
            file="base-fp16.safetensors",
            kind="cast",
            story="base-pruned in half precision",
            parents=("base-pruned",),
        ),
        ZooModel(
            name="base-legacy",
            file="base-legacy.pt",
            kind="copy",
            story="base-fp16 in the older, non-zip pickle format",
            parents=("base-fp16",),
        ),
        ZooModel(
            name="base-diffusers",
            file="base-diffusers",
            kind="copy",
            story="base-fp16 as a diffusers pipeline folder",
            parents=("base-fp16",),
            layout="diffusers",
        ),
        ZooModel(
            name="nai-layout",
            file="nai-layout.ckpt",
            kind="fine-tune",
            story="UNet fine-tuned; text encoder unchanged, but renamed as NovelAI did",
            parents=("base-pruned",),
            layout="novelai",
            trains=(UNET,),
            step=0.12,
            metadata={"global_step": 510_000},
        ),
        ZooModel(
            name="vae-only",
            file="vae-only.ckpt",
            kind="fine-tune",
            story="a standalone VAE: the base's, with the decoder trained further",
            parents=("base-pruned",),
            dtype="float32",
            layout="bare-vae",
            trains=(VAE + "decoder.",),
            keeps=_VAE_COMPONENTS,
            metadata={"global_step": 840_000},
        ),
        ZooModel(
            name="new-decoder",
            file="new-decoder.safetensors",
            kind="swap",
            story="base-fp16 with the VAE decoder of vae-only",
            parents=("base-fp16", "vae-only"),
            takes=("vae_decoder",),
        ),
        *_chain(),
        ZooModel(
            name="dreambooth",
            file="dreambooth.safetensors",
            kind="fine-tune",
            story="UNet and the last four layers of the text encoder trained on one subject",
            parents=("base-fp16",),
            trains=(UNET, *(f"{TEXT_SD1}encoder.layers.{i}." for i in (8, 9, 10, 11))),
            step=0.04,
            metadata={
                "modelspec.architecture": "stable-diffusion-v1",
                "modelspec.title": "dreambooth",
            },
        ),
        *_run(),
        *_mixes(),
        ZooModel(
            name="broken-ids",
            file="broken-ids.safetensors",
            kind="merge",
            story="80 % mix-00 and 20 % mix-100, position_ids merged like weights",
            parents=("mix-00", "mix-100"),
            weights=(0.8, 0.2),
            broken_positions=True,
        ),
        ZooModel(
            name="nan-layer",
            file="nan-layer.safetensors",
            kind="damaged",
            story="dreambooth with NaN in one self-attention layer",
            parents=("dreambooth",),
            non_finite={_NAN_LAYER: 3},
        ),
        ZooModel(
            name="inpainting",
            file="inpainting.safetensors",
            kind="fine-tune",
            story="UNet fine-tuned for inpainting: nine input channels",
            parents=("base-pruned",),
            family="sd1-inpainting",
            trains=(UNET,),
            step=0.08,
        ),
        ZooModel(
            name="sd2-base",
            file="sd2-base.safetensors",
            kind="base",
            story="a base of the SD2 family, of its own in every component",
            family="sd2",
        ),
        ZooModel(
            name="sd2-tail",
            file="sd2-tail.safetensors",
            kind="fine-tune",
            story="sd2-base with only the text-encoder tensors changed that SD2 never uses",
            parents=("sd2-base",),
            family="sd2",
            trains=(
                f"{TEXT_SD2}transformer.resblocks.23.",
                f"{TEXT_SD2}logit_scale",
                f"{TEXT_SD2}text_projection",
            ),
        ),
        ZooModel(
            name="other-arch",
            file="other-arch.safetensors",
            kind="base",
            story="a small language model, in bfloat16",
            family="transformer",
            dtype="bfloat16",
        ),
        ZooModel(
            name="other-sharded",
            file="other-sharded",
            kind="copy",
            story="other-arch in three shards",
            parents=("other-arch",),
            family="transformer",
            dtype="bfloat16",
        ),
    ]
)
"""The demo zoo: SD1, SD2 and language models of known history, in the order they are made."""


def _tuned(name: str, parent: str, step: float) -> ZooModel:
    return ZooModel(
        name=name,
        file=f"{name}.safetensors",
        kind="fine-tune",
        story=f"a fine-tune of {parent}",
        parents=(parent,),
        trains=(UNET, TEXT_SD1),
        step=step,
    )


def _merged(name: str, **weights: float) -> ZooModel:
    return ZooModel(
        name=name,
        file=f"{name}.safetensors",
        kind="merge",
        story=" + ".join(f"{weight:g} {parent}" for parent, weight in weights.items()),
        parents=tuple(weights),
        weights=tuple(weights.values()),
    )


ZOO_RECIPES: tuple[ZooModel, ...] = with_contents(
    [
        ZooModel(
            name="origin",
            file="origin.safetensors",
            kind="base",
            story="what the four parents were tuned from",
        ),
        _tuned("north", "origin", 0.07),
        _tuned("east", "origin", 0.09),
        _tuned("south", "origin", 0.05),
        _tuned("west", "origin", 0.08),
        _merged("two", north=0.35, east=0.65),
        _merged("three", north=0.5, east=0.3, south=0.2),
        _merged("four", north=0.4, east=0.3, south=0.2, west=0.1),
        _merged("nested", two=0.6, south=0.4),
        _merged("add-half", north=1.0, east=0.5, origin=-0.5),
        _merged("add-full", north=1.0, east=1.0, origin=-1.0),
        ZooModel(
            name="blocks",
            file="blocks.safetensors",
            kind="block-merge",
            story="north and east merged with 25 ratios, one for each block",
            parents=("north", "east"),
            block_weights=spread_block_weights(0.8),
        ),
    ]
)
"""Four fine-tunes of one origin, and every kind of merge of them, in fp16."""


def recipes_and_tunes(tunes: int) -> tuple[ZooModel, ...]:
    """Return ZOO_RECIPES and beside it `tunes` fine-tunes of its models that are no merges."""
    parents = ("origin", "north", "east", "south", "west")
    more = [
        _tuned(f"tune-{i:02}", parents[i % 5], 0.03 + 0.01 * (i % 4)) for i in range(1, tunes + 1)
    ]
    return with_contents([*ZOO_RECIPES, *more])
