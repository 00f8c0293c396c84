"""Tests on the same cases: Wilcoxon, Holm, and the interval of a paired difference."""

import numpy as np
import pytest
from scipy.stats import binomtest

from medseg.evaluation.paired import holm, paired_tests, wilcoxon_p


def test_holm_multiplies_by_what_is_left_and_never_falls() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx((0.06, 0.03, 0.06))
    assert holm([0.9, 0.5]) == (1.0, 1.0)
    assert holm([]) == ()


def test_six_differences_of_one_sign_have_the_smallest_exact_p() -> None:
    # Of the 2^6 choices of signs, two are as extreme: all plus, and all minus.
    p = wilcoxon_p(np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))
    assert p == pytest.approx(2 / 2**6)
    assert p == pytest.approx(binomtest(6, 6).pvalue)


def test_equal_rows_differ_by_nothing() -> None:
    values = np.array([0.5, 0.7, 0.9])
    (test,) = paired_tests(["a", "b"], [values, values.copy()])
    assert (test.difference, test.low, test.high, test.p, test.p_holm) == (0, 0, 0, 1, 1)


def test_a_pair_is_tested_case_by_case_not_mean_by_mean() -> None:
    rng = np.random.default_rng(0)
    hard = rng.uniform(0.2, 0.9, 40)
    tests = paired_tests(["a", "b", "c"], [hard, hard - 0.01, hard + rng.normal(0, 0.001, 40)])
    by_pair = {(test.first, test.second): test for test in tests}
    assert len(by_pair) == 3
    sure = by_pair["a", "b"]
    assert sure.difference == pytest.approx(0.01)
    assert 0.009 < sure.low <= sure.high < 0.011
    assert sure.p_holm < 1e-6
