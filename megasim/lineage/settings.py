"""Every number that lineage and recipes were tuned with: where it comes from, what tested it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True)
class LineageSettings:
    """The constants of recipes, trees and directions.

    "Forests" are the really trained networks of `benchmarks/trained_trees.py`, "the recipe zoo"
    the simulated and written models of `tests/lineage/`, "published" the matrices of real Stable
    Diffusion models that the tests read. Forests of seeds 200 to 314 and 600 to 935 were an earlier
    form of that benchmark: perceptrons, trained by AdamW. Numbers that follow from mathematics
    alone are not here but beside their formula.

    Noise:
        precision: relative error of a squared distance, by source. Exact sums are taken in
            float64 over float32 values; published results were summed in single precision, and
            those of `cwd` agree with the merge ratios in their names to 4e-5.
        clear_of_noise: what is left unexplained counts once it is this times the noise.
            Judgement; tested on the recipe zoo and on lines of nine merges rounded to float16.
        dependent_rounding, dependent_precision: a point is on the plane of others when its
            squared distance from it is below this times the largest squared rounding, and this
            times the precision of the widest distance. Judgement; tested on lines of merges.
        dependent: parents whose Gram matrix has eigenvalues below this share of its largest are
            dependent: the root of float64's precision with room for the sums of a few parents.

    Search for parents:
        same_scale: models whose norms are within this factor are of one scale. Training moves a
            norm by some per cent; codes without their scales, or weights times 20, are of another.
        parent_cosine: raw weights at a smaller cosine are at right angles. Unrelated networks of
            one shape stand at up to 0.05 (eight small transformers), a parent that a tenth was
            taken of at 0.11.
        near_copy: candidates within this share of the squared distance to the next are
            near-copies of the model. Judgement; tested on merges 0.5 apart and 117 from either
            parent.
        most_parents: the largest set that is tried. People merge two or three at a time.
        beam: how many sets of each size grow into the next. Judgement; tested on the recipe zoo
            of 50 fine-tunes.
        pool: parents are sought among so many nearest models: what a second allows.
        shown_pool: where no merge is possible, pairs of so many nearest are tried to be shown.
        least_gain: a further parent must take away this share of what is left. A chance one
            takes about 1/P of it (P elements, or numbers of a sketch); one that shares training
            with the true parents a little more. Chosen on the recipe zoo.
        no_share: a parent of less weight than this is none. Judgement.
        not_negative, most_negative: weights that a person merges by: none below the first, or a
            single one down to the second, as in a + 1.0 (b − c) with errors. Judgement.
        same_layers: candidates hold at least this share of the layers that the best of them
            shares with the model. Judgement.

    Verdict of a recipe:
        max_unexplained: what a recipe may leave, over the squared distance to the nearest parent:
            a merge that was trained a little further. An addition in unrelated directions leaves
            a half. Chosen on the recipe zoo; among its 51 models that are none, no merge claimed.
        explainable: all models together must leave less than this for a search to be worth its
            time. The same number, before the parents are known.
        nearly_all: what a merge that was stored in any precision leaves at most. From rounding.
        arc_leaves: what slerp leaves at most, over what weights in each tensor leave, to be told
            from a weighted sum. Rounding takes no part in the difference. Judgement; tested on
            merges of mergekit.
        arc_slope, arc_errors: where rounding hides that, a slerp is told by its rise above the
            line: within the first of what an arc has, as parents and model lie on one grid and
            their rounding is not quite random, and clear of the line by so many errors.
            Judgement; tested on merges of mergekit in bfloat16 and on sums rounded to it.
        tensor_pool: parents with weights in each tensor are sought among so many nearest models:
            what a second allows.
        arc_pool: of so many nearest models each pair is tried for an arc. For the time it takes.
        uneven: how far the weights of layers may scatter when more than that is left. An epoch
            of a run lies near the line of its neighbours, in each layer elsewhere on it. Chosen
            on the epochs of the forests, seeds 200 to 314.
        as_equal, equal_angles: of four models, any of which may be the others' add-difference,
            readings are alike in which the cosines between the changes from the base deviate from
            those of other models by at most the first times the least, and the second.
        skewed: what the mean cosine counts beside deviations from the median one.
        as_central: of these, bases whose summed distances are within this factor of the least are
            alike. Judgement, all four; tested on
            corners of a square, on the recipe zoo, on published models and on five fine-tunes
            whose changes have cosines of 0 and of 0.3, and on trained ones with 0.2 to 0.6.
        fewest_layers: from so many layers on they serve as replicates for the standard error.
        rival_unexplained: other sets that leave no more than this are listed beside the one
            taken, or of a refusal. Asked for.
        subtracting_leaves: a set that subtracts a model takes the place of a plain weighted sum
            that leaves no more than `rival_unexplained` only where it leaves noise, or this share
            of that: among many candidates 1.0 a + 1.0 b − 1.0 c is near by chance. Judgement;
            tested where it leaves 0.57 % and the true sum, trained further, 1.5 %.
        rival: sets that leave at most this times what the best leaves, noise included, explain
            nearly as much; and weights by block are reported when those of the whole leave more.
            Judgement.
        worth_telling: weights that leave more than this are not worth a word.

    Merges that sparsify (chosen on those of mergekit in `benchmarks/merge_zoo.py`, seed 0, float16
    and bfloat16, and on `tests/lineage/test_sparse_merges.py`):
        sparse_pool: base and parents are sought among so many nearest models.
        bases: how many models, of those with the most equal elements, are tried as the base.
        element_samples: elements of a key and keys that are read, first to find the parents.
        least_alone: of the elements that tell, how many stand out at one factor at least.
        fewest_elements: so many must tell.
        exactly, beyond_chance: the share of elements that follow exactly, and of those that would
            not by chance.
        fewest_in_bin: elements of a rank that tell how many of it were taken.
        blurred: ranks that are neither taken nor left, where a rule by size was used.
        ramp: how much likelier the largest change is taken than the smallest, by chance.
        dense: where more of every parent's changes was kept, it is a weighted sum, in which the
            smallest changes are lost in rounding.
        as_one: factors within this of 1 are taken for 1.

    Permuted copies:
        one_norm: norms of a model and its permuted copy are the same within this share; a cast to
            half precision moves that of 10,000 weights or more by less than 1e-5.

    Stacks:
        same_layer: the share of a layer's elements, constant tensors aside, that must be the very
            numbers of another layer. Judgement: some tools rewrite norms.

    Families:
        related_cosine: raw weights of two models with a larger cosine are related. Trained apart
            they have a cosine of about 0, fine-tuned 0.9 and more. All families of the forests
            are right by it. Where models share large parts by construction it is not valid; there
            the order of hidden units decides (`megasim.estimate.kinship`).
        gap: without norms, families part where nothing of one is within this factor of the
            distances inside the other. Judgement; tested on the published families.
        right_angle: without norms, families are at right angles where no squared distance between
            them deviates more from nᵢ² + nⱼ². Published 7B models deviate by 2 %; cuts of the
            published families of Stable Diffusion by 4 % and more, or their base shows.
        spare_pairs: so many more pairs of different families than norms, at least, must agree.
            Judgement, as the two below.
        fewest_implied: models without norms, at least, for their distances to imply them: of
            four in three families there are five pairs.
        most_families: the finest cut into families that is tried.
        least_common: models that share less than this share of their keys are not called
            related by these. Judgement.

    Tree (chosen on forests of seeds 600 to 839 where not said otherwise; "today's" are those of
    `benchmarks/forests.py`: perceptrons of seeds 0 to 2 and 20 to 27, convolutional networks of 0
    to 2 and 20):
        block_rounds: how often a tree gives the weights of the blocks, and these the tree.
        same_block: the least D² of a block that counts, over the median of the family.
        untouched, least_untouched: what the logarithm of the share of elements left alone counts
            beside the weighted mean log D² of blocks, and what is added to that share. Both near
            the maximum of the likelihood of the true trees of today's forests.
        counted_elements: the share of elements that all models must have for these to be counted.
        directions: what a lack of directions counts, of what it would in a normal distribution:
            gradients have few directions, and share some. At the maximum of that likelihood.
        least_direction: an eigenvalue counts at least this share of the mean one. From 1e-3 to
            1e-6 it changes none of the trees.
        corner: rows and columns of so many matrices are read. 128 rows tell no more than 32.
        spectra_near: and compared with so many nearest models: what some seconds allow.
        edge_sureness: the log likelihood of an edge is this times its cost. The likelihood of the
            true trees (matrix-tree theorem) has its maximum at 8 with D² alone, and with all that
            is known at 7 for perceptrons and at 13 for convolutional networks.
        most_rivals, least_rival: so many others are told beside an edge, if they are as likely as
            this. Judgement.
        edge_decided: below this probability an edge itself is shown as undecided.
        own_error: each block counts as if it had erred once by this cosine when no other did.
            From 0.03 to 0.3 it changes edges by a tenth of a per cent.
        merge_unexplained: what a merge in a tree may leave: less than `max_unexplained`, since
            an epoch of a straight run lies as near the line of two others as a merge that was
            trained further.
        between, off_foot: a model trained from a merge that stands between the merge's parents
            sees them under a cosine above the first, and the merge lies at the foot of its
            perpendicular on their line, within the second cosine.
        from_merge: the share of the way from elsewhere to a merge that a model trained from it
            has gone. Seven in ten such models are found.

    Direction, log odds unless said otherwise (chosen on forests of seeds 500 to 519, near the
    maximum of the likelihood of their true roots, and on the published epochs, which are a
    chain; reported on other seeds):
        record: a step count, a stated base, an EMA copy, a subset of keys or a cast. Judgement:
            what is written is right in more than 99 of 100 cases.
        count_of_two: a step or epoch count of two models that are kin, whose metadata name no run
            and of which there is no third. Judgement: a fine-tune that counts anew looks the same.
        one_start_cosine: where hidden units decide nothing, counts are compared between models
            whose raw weights have a larger cosine. Fine-tunes of one start have 0.9 and more;
            SevenNet of May and July 2024, two trainings, 0.14 to 0.46 by component.
        counters: what counts batches in the weights themselves went on from where the start had
            come. In the forests always; less, since a tool may begin anew.
        norm_growth, growth_width: how much the likelihood of the growth of norms counts, by layer,
            and how wide it scatters.
        grown_elements: layers of less elements do not tell of growth.
        kurtosis: a measured drift of training.
        course: three models in one course: the middle came from one of the two.
        shrinking: steps of one course shrink as the rate of learning falls.
        one_course: the cosine of successive steps from which they count as one course.
        epoch_length: a step counts as the next epoch when its square is less than this times
            that of the step before.
        lengths: for each step beside one e times as long as the step after it.
        growth: how far the prior of a root is trusted, as a power of the number of orders the
            tree can have grown in. Forests alone would have it at 2.4, but they all grow from a
            base with three children; a collection holds what people kept, not all that grew.
        ends: the share of families whose base has a single child in the collection.
        decided: below this probability a direction is shown as undecided.

    Claims:
        claim_tolerance: weights within this, or three standard errors, of a claim confirm it.
        contradicted: claimed parents that leave this share or more contradict the claim.
    """

    precision: Mapping[str, float] = field(
        default_factory=lambda: MappingProxyType(
            {"exact": 1e-6, "imported": 5e-5, "estimated": 1e-6, "": 1e-6}
        )
    )
    clear_of_noise: float = 2.0
    dependent_rounding: float = 4.0
    dependent_precision: float = 10.0
    dependent: float = 1e-9

    same_scale: float = 3.0
    parent_cosine: float = 0.1
    near_copy: float = 0.01
    most_parents: int = 4
    beam: int = 40
    pool: int = 300
    shown_pool: int = 12
    least_gain: float = 0.25
    no_share: float = 0.02
    not_negative: float = -0.005
    most_negative: float = -1.05
    same_layers: float = 0.9

    max_unexplained: float = 0.1
    explainable: float = 0.1
    nearly_all: float = 0.005
    arc_leaves: float = 0.9
    arc_slope: float = 0.5
    arc_errors: float = 4.0
    tensor_pool: int = 24
    arc_pool: int = 12
    uneven: float = 0.1
    as_equal: float = 1.5
    equal_angles: float = 0.005
    skewed: float = 0.3
    as_central: float = 1.02
    fewest_layers: int = 8
    rival_unexplained: float = 0.03
    subtracting_leaves: float = 0.1
    rival: float = 2.0
    worth_telling: float = 0.5

    sparse_pool: int = 12
    bases: int = 5
    element_samples: tuple[tuple[int, int], ...] = ((4096, 24), (16384, 256))
    least_alone: float = 0.03
    fewest_elements: int = 1000
    exactly: float = 0.95
    beyond_chance: float = 0.9
    fewest_in_bin: int = 20
    blurred: float = 0.05
    ramp: float = 0.1
    dense: float = 0.95
    as_one: float = 0.01

    one_norm: float = 1e-4
    same_layer: float = 0.9

    related_cosine: float = 0.3
    gap: float = 10.0
    right_angle: float = 0.03
    spare_pairs: int = 1
    fewest_implied: int = 4
    most_families: int = 100
    least_common: float = 0.5

    block_rounds: int = 2
    same_block: float = 1e-8
    untouched: float = 0.3
    least_untouched: float = 1e-3
    counted_elements: float = 0.999
    directions: float = 0.5
    least_direction: float = 1e-6
    corner: tuple[int, int, int] = (32, 128, 32)
    spectra_near: int = 12
    edge_sureness: float = 10.0
    most_rivals: int = 2
    least_rival: float = 0.01
    edge_decided: float = 0.5
    own_error: float = 0.2
    merge_unexplained: float = 0.02
    between: float = 0.2
    off_foot: float = 0.3
    from_merge: float = 0.7

    record: float = 6.0
    count_of_two: float = 2.0
    one_start_cosine: float = 0.9
    counters: float = 4.0
    norm_growth: float = 0.4
    growth_width: float = 0.5
    grown_elements: int = 100
    kurtosis: float = 0.2
    course: float = 2.0
    shrinking: float = 1.5
    one_course: float = 0.2
    epoch_length: float = 1.5
    lengths: float = 0.3
    growth: float = 0.7
    ends: float = 0.3
    decided: float = 0.8

    claim_tolerance: float = 0.02
    contradicted: float = 0.5


SETTINGS = LineageSettings()
