import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.domain.drift import ColumnDrift, Known, triage

ANY = st.sampled_from([None, True, False])


@pytest.mark.parametrize(
    ("known", "kind"),
    [
        (Known(faults=("'b' is about 1000 times what it was",), inputs_moved=True), "data bug"),
        (Known(faults=(), inputs_moved=True, quality_fell=True, columns=("a",)), "covariate drift"),
        (Known(inputs_moved=True), "covariate drift"),
        (Known(faults=(), inputs_moved=False, quality_fell=True, labels_moved=False), "concept drift"),
        (Known(faults=(), inputs_moved=False, quality_fell=True, labels_moved=True), "label problem"),
        (Known(faults=(), inputs_moved=False, labels_moved=True), "label problem"),
        (Known(faults=(), inputs_moved=False, quality_fell=True), "cannot tell"),
        (Known(faults=(), inputs_moved=None, quality_fell=True), "cannot tell"),
        (Known(faults=(), inputs_moved=False), "cannot tell"),
        (Known(faults=(), inputs_moved=False, quality_fell=False), "none"),
        (Known(), "cannot tell"),
    ],
)
def test_what_is_known_names_the_trouble(known, kind):
    assert triage(known).kind == kind


def test_the_evidence_is_told():
    found = triage(Known(faults=("the column 'b' is gone",)))
    assert "'b' is gone" in found.why
    found = triage(Known(faults=(), inputs_moved=True, columns=("a", "b")))
    assert "a, b" in found.why
    assert "quality is not known" in found.why
    assert "no fault" in found.why
    assert "could not be checked" in triage(Known(inputs_moved=True)).why


@given(ANY, ANY, ANY)
def test_what_is_not_known_is_never_taken_for_good(moved, fell, labels):
    """`none` needs quiet inputs and quality, `concept drift` all three."""
    found = triage(Known((), moved, fell, labels)).kind
    if found == "none":
        assert moved is False
        assert fell is False
    if found == "concept drift":
        assert (moved, fell, labels) == (False, True, False)
    assert triage(Known(("broken",), moved, fell, labels)).kind == "data bug"


def test_columns_of_all_kinds_are_ranked_by_margins():
    number = ColumnDrift("a", "number", "t", 0.1, 0.6, 0.5, 0.25, "standard deviations", "drifted")
    joint = ColumnDrift("all", "joint", "t", 0.1, 0.7, 0.64, 0.57, "area under the curve", "drifted")
    assert (number.strength, number.size) == (pytest.approx(2.0), pytest.approx(2.4))
    assert joint.strength == pytest.approx(2.0)
