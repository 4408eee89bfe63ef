from rung.domain.retraining import Decision, Request, Retraining

ASKED = Request("manual", "1", "why not", 5.0, "ana")


def passed(*steps):
    return {step: Decision("pass", "good", 1.0) for step in steps}


def test_it_goes_step_by_step():
    assert (Retraining("m", 1, ASKED).next, Retraining("m", 1, ASKED).standing) == ("extract", "extract is due")
    half = Retraining("m", 1, ASKED, passed("extract", "validate"))
    assert (half.next, half.over, half.stopped) == ("train", False, None)
    whole = Retraining("m", 1, ASKED, passed("extract", "validate", "train", "gate", "release"))
    assert (whole.next, whole.over, whole.standing) == (None, True, "released")


def test_what_does_not_pass_ends_it_and_undecided_is_no_pass():
    for outcome in ("fail", "inconclusive"):
        there = passed("extract", "validate", "train") | {"gate": Decision(outcome, "too few rows", 2.0)}
        one = Retraining("m", 1, ASKED, there)
        assert one.over
        assert one.next is None
        assert one.stopped is not None
        assert one.standing == "ended at gate"
