"""The property about rare failures, at the stated strengths."""


def test_rare_failures_are_judged_where_they_are_stated(measured_gate, pytester):
    """Tiny noise never changes a label; the probability of a large change of all values is not below 1e-4."""
    pytester.makefile(
        ".toml",
        rare="""
        [failure_probability.digits]
        linf = { "0.001" = 1e-4, "0.9" = 1e-4 }
        """,
    )
    options = ("--quick", "--norms", "linf", "-k", "test_failure_probability", "--thresholds=rare.toml")
    result = measured_gate("-n2", *options)
    result.stdout.fnmatch_lines(["*failure probability, linf 0.001, below 0.0001*passed*"])
    result.stdout.fnmatch_lines(["*failure probability, linf 0.9, below 0.0001*failed*"])
    result.assert_outcomes(passed=1, failed=1)
    records = {one["about"]["epsilon"]: one["values"] for one in measured_gate.results()["records"]}
    assert records["0.001"]["value"] == 1
    assert all(bound < 1e-4 for bound in records["0.001"]["probabilities"])
    assert records["0.9"]["worst"]
    assert records["0.001"]["forward"] > 5000
    assert "forward" not in records["0.9"], "the passes of an image are counted once for all strengths"


def test_nothing_is_measured_if_nothing_is_stated(measured_gate):
    result = measured_gate("-n0", "--quick", "--norms", "linf", "-k", "test_failure_probability", "-rs")
    result.stdout.fnmatch_lines(["*no threshold file states failure_probability.digits*"])
