"""Renames are found from content, applied to changed keys too, and never invented."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from megasim.compare.renames import NamedTensor, find_renames


def tensor(content: str, shape: str = "64x64", trivial: bool = False) -> NamedTensor:
    return NamedTensor(shape, (content,), trivial)


def model(prefix: str, keys: int, changed: frozenset[int] = frozenset(), seed: str = "") -> dict:
    return {
        f"{prefix}layers.{i}.weight": tensor(f"{seed}{i}" + ("!" if i in changed else ""))
        for i in range(keys)
    }


@given(
    keys=st.integers(2, 30),
    same=st.integers(0, 29),
    prefixes=st.sampled_from([("a.", "b."), ("", "bert."), ("x.y.", "x.y.text_model.")]),
)
def test_one_unchanged_tensor_is_enough_to_align_all(keys: int, same: int, prefixes) -> None:
    changed = frozenset(range(keys)) - {same % keys}
    (rename,) = find_renames(model(prefixes[0], keys), model(prefixes[1], keys, changed))
    assert len(rename.keys) == keys
    assert rename.support == 1
    assert rename.basis == "content"
    for ka, kb in rename.keys:
        assert ka.removeprefix(prefixes[0]) == kb.removeprefix(prefixes[1])


def test_a_whole_model_moved_is_found_by_its_structure() -> None:
    head = {"classifier.weight": tensor("head", "2x64")}
    (rename,) = find_renames(model("", 20, seed="p"), model("bert.", 20, seed="q") | head)
    assert (rename.prefix_a, rename.prefix_b, rename.basis) == ("", "bert.", "structure")
    assert len(rename.keys) == 20
    assert rename.support == 0


def test_each_model_may_have_a_head_of_its_own() -> None:
    a = model("", 20, seed="p") | {"score.weight": tensor("s", "1x64")}
    b = model("bert.", 20, seed="q") | {"classifier.weight": tensor("c", "2x64")}
    (rename,) = find_renames(a, b)
    assert len(rename.keys) == 20


def test_structure_needs_every_key_and_every_shape() -> None:
    other = model("bert.", 20, seed="q")
    other["bert.layers.3.weight"] = tensor("q3", "64x32")
    assert find_renames(model("", 20, seed="p"), other) == []
    more = model("bert.", 4, seed="q") | {"bert.pooler.weight": tensor("p", "64x32")}
    assert find_renames(model("", 4, seed="p"), more) == []


def test_few_keys_are_enough_where_none_is_left_over() -> None:
    (rename,) = find_renames(model("", 4, seed="p"), model("bert.", 4, seed="q"))
    assert (rename.prefix_b, len(rename.keys), rename.basis) == ("bert.", 4, "structure")


def mlp(names: list[str], seed: str, norms: tuple[float, float, float] = (1, 2, 3)) -> dict:
    shapes = ("32x16", "32x32", "10x32")
    return {
        f"{name}.weight": NamedTensor(shape, (seed + shape,), False, norm)
        for name, shape, norm in zip(names, shapes, norms, strict=True)
    }


def test_shapes_in_their_order_find_what_was_named_anew() -> None:
    a, b = mlp(["fc1", "fc2", "head"], "p"), mlp(["net.0", "net.2", "net.4"], "q")
    renames = find_renames(a, b)
    assert sorted(key for r in renames for key in r.keys) == [
        ("fc1.weight", "net.0.weight"),
        ("fc2.weight", "net.2.weight"),
        ("head.weight", "net.4.weight"),
    ]
    assert {r.basis for r in renames} == {"shapes"}


def test_a_shape_or_a_norm_that_disagrees_ends_it() -> None:
    a = mlp(["fc1", "fc2", "head"], "p")
    assert find_renames(a, mlp(["net.0", "net.2", "net.4"], "q", (1, 2, 300))) == []
    b = mlp(["net.0", "net.2", "net.4"], "q")
    b["net.4.weight"] = NamedTensor("11x32", ("other",), False, 3)
    assert find_renames(a, b) == []


def test_shards_of_one_model_are_not_renamed_into_each_other() -> None:
    def shard(first: int, layers: int) -> dict:
        return {
            f"layers.{i}.{name}.weight": tensor(f"{i}{name}")
            for i in range(first, first + layers)
            for name in ("q", "k", "v", "o", "up", "down", "gate", "norm", "more")
        }

    assert find_renames(shard(0, 1), shard(1, 1)) == []
    assert find_renames(shard(0, 2), shard(2, 2)) == []


def test_what_was_renamed_and_cast_at_once_is_found_once_rounded() -> None:
    def cast(key: str, seed: int) -> NamedTensor:
        return NamedTensor("64x64", (f"{key}{seed}", f"half {key}", f"bf {key}"), False)

    a = {f"layers.{i}.w": cast(str(i), 0) for i in range(3)}
    b = {f"enc.{i}.w": cast(str(i), 1) for i in range(3)} | {"other.w": tensor("o", "1x1")}
    (rename,) = find_renames(a, b)
    assert (len(rename.keys), rename.support, rename.basis) == (3, 3, "rounded content")


def test_trivial_tensors_are_no_evidence() -> None:
    a = {"x.bias": tensor("zeros", trivial=True), "x.w": tensor("1")}
    b = {"y.bias": tensor("zeros", trivial=True), "y.w": tensor("2")}
    assert find_renames(a, b) == []


def test_tied_weights_are_no_evidence() -> None:
    a = {"emb.w": tensor("tied"), "head.w": tensor("tied"), "x.w": tensor("1")}
    b = {"emb.w": tensor("tied"), "out.w": tensor("tied"), "x.w": tensor("1")}
    assert find_renames(a, b) == []


def test_a_contradicted_substitution_is_not_applied() -> None:
    a = {"x.p": tensor("1"), "x.q": tensor("2")}
    b = {"y.p": tensor("1"), "y.q": tensor("3"), "z.r": tensor("2")}
    renames = find_renames(a, b)
    assert ("x.q", "y.q") not in {pair for r in renames for pair in r.keys}


def test_names_that_agree_are_left_alone() -> None:
    a = model("x.", 10)
    assert find_renames(a, dict(a)) == []
    shuffled = list(a.values())
    random.Random(0).shuffle(shuffled)
    assert find_renames(a, dict(zip(a, shuffled, strict=True))) == []


@given(st.data())
def test_renames_are_one_to_one_and_order_does_not_matter(data: st.DataObject) -> None:
    names = st.lists(st.sampled_from("abcd"), min_size=1, max_size=3).map(".".join)
    side = st.dictionaries(names, st.integers(0, 5).map(lambda i: tensor(str(i), "64")), max_size=8)
    a, b = data.draw(side), data.draw(side)
    renames = find_renames(a, b)
    pairs = [pair for r in renames for pair in r.keys]
    assert len({ka for ka, _ in pairs}) == len({kb for _, kb in pairs}) == len(pairs)
    assert not {ka for ka, _ in pairs} & set(b)
    reordered = find_renames(dict(reversed(a.items())), dict(reversed(b.items())))
    assert {pair for r in reordered for pair in r.keys} == set(pairs)


def test_a_network_in_a_strange_layout_is_aligned_layer_by_layer() -> None:
    """A thousand layers, each under another name: no more work than a few looks at each."""
    a = {f"net.{i}.{part}": tensor(f"{i}{part}") for i in range(1000) for part in ("w", "b")}
    b = {
        f"mine.z{7 * i % 1000}q.{part}": a[f"net.{i}.{part}"] for i in range(1000) for part in "wb"
    }
    renames = find_renames(a, b)
    assert len(renames) == 1000
    assert all(a[ka] is b[kb] for r in renames for ka, kb in r.keys)


def test_which_of_two_equal_towers_was_kept_is_not_guessed() -> None:
    a = {**model("q.", 12, seed="p"), **model("k.", 12, seed="p")}
    assert find_renames(a, model("enc.", 12, seed="p")) == []
    moved = {**model("q.", 12, seed="p"), **model("k.", 12, frozenset(range(12)), seed="p")}
    (rename,) = find_renames(moved, model("enc.", 12, seed="p"))
    assert (rename.prefix_a, rename.prefix_b, rename.support) == ("q.", "enc.", 12)


def test_small_tensors_are_evidence_once_larger_ones_are() -> None:
    small = NamedTensor("32", ("bias",), trivial=True)
    (large, bias) = find_renames(
        {"enc.w": tensor("w"), "enc.b": small}, {"e.0.weight": tensor("w"), "e.0.bias": small}
    )
    assert large.keys == (("enc.w", "e.0.weight"),)
    assert bias.keys == (("enc.b", "e.0.bias"),)
    assert find_renames({"enc.b": small}, {"e.0.bias": small}) == []


def test_constants_are_never_evidence() -> None:
    ones = NamedTensor("32", ("ones",), trivial=True, plain=True)
    found = find_renames(
        {"enc.w": tensor("w"), "enc.b": ones}, {"e.0.weight": tensor("w"), "e.0.bias": ones}
    )
    assert [r.keys for r in found] == [(("enc.w", "e.0.weight"),)]


def test_names_that_differ_in_case_spaces_and_underscores_alone() -> None:
    """As two releases of SevenNet spell their layers; the weights are others."""
    names = ("edge_embedding.coeffs", "0_convolution.weight", "1_convolution.weight")
    others = ("EdgeEmbedding.coeffs", "0 convolution.weight", "1 convolution.weight")
    a = {name: tensor(f"a{i}", f"{i + 2}x8") for i, name in enumerate(names)}
    b = {name: tensor(f"b{i}", f"{i + 2}x8") for i, name in enumerate(others)}
    found = find_renames(a | {"only.a": tensor("x")}, b | {"only.b": tensor("y")})
    assert [pair for rename in found for pair in rename.keys] == [
        (names[1], others[1]),
        (names[2], others[2]),
        (names[0], others[0]),
    ]
    assert {(rename.basis, rename.support) for rename in found} == {("structure", 0)}
    b["edge embedding.coeffs"] = b["EdgeEmbedding.coeffs"]  # which of the two is not clear
    assert len(find_renames(a, b)) == 2
