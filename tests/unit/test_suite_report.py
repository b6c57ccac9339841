"""The report of what ran: each case runs pytest on a small example."""

import pytest

EXAMPLE = """
    import pytest
    from tests import suite_report

    def test_passes(): pass

    @pytest.mark.xfail(reason="the kernel differs here")
    def test_known(): assert False
"""


@pytest.fixture
def example(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeini("[pytest]\naddopts = -p no:cacheprovider --import-mode=importlib\n")
    pytester.makeconftest(
        """
        from tests import suite_report

        def pytest_configure(config):
            suite_report.register(config)
        """
    )
    return pytester


def run(example: pytest.Pytester, **files: str) -> pytest.RunResult:
    for path, text in files.items():
        example.makepyfile(**{path: text})
    return example.runpytest_inprocess()


def last_line(result: pytest.RunResult) -> str:
    return result.outlines[-1]


def test_the_last_line_counts_everything(example: pytest.Pytester) -> None:
    result = run(example, test_example=EXAMPLE + "    def test_fails(): assert 0\n")

    assert last_line(result) == "1 passed, 1 failed, 1 skipped"
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_pytests_own_closing_line_stays(example: pytest.Pytester) -> None:
    result = run(example, test_example=EXAMPLE)

    assert result.parseoutcomes() == {"passed": 1, "xfailed": 1}
    assert result.outlines[-2].startswith("===")


def test_each_suite_has_its_line_and_each_reason_its_own(example: pytest.Pytester) -> None:
    for path in ("e2e", "tests", "tests/unit"):
        example.mkdir(path)
    skipping = "import pytest\ndef test_a(): pytest.skip('no SCTP')\ndef test_b(): pytest.skip('no SCTP')\n"

    result = run(example, **{"tests/unit/test_one": EXAMPLE, "e2e/test_two": skipping})

    result.stdout.fnmatch_lines(
        [
            "*what ran and what could not*",
            "unit      1 passed, 0 failed, 1 skipped in * s",
            "            1 skipped: expected to fail: the kernel differs here",
            "contract  nothing ran",
            "e2e       0 passed, 0 failed, 2 skipped in * s",
            "            2 skipped: no SCTP",
        ]
    )
    assert last_line(result) == "1 passed, 0 failed, 3 skipped"


@pytest.mark.parametrize(
    "body",
    [
        "@pytest.mark.skip\ndef test_it(): pass",
        "def test_it(): pytest.skip()",
        "pytest.skip(allow_module_level=True)",
    ],
    ids=["mark", "call", "module"],
)
def test_a_skip_without_a_reason_fails(example: pytest.Pytester, body: str) -> None:
    result = run(example, test_example=f"import pytest\n{body}\n")

    assert last_line(result) == "0 passed, 1 failed, 0 skipped"
    assert result.ret != pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*skipped without a reason*"])


@pytest.mark.parametrize(
    "body",
    [
        "@pytest.mark.skip(reason='later')\ndef test_it(): pass",
        "def test_it(): pytest.skip('later')",
        "pytest.skip('later', allow_module_level=True)",
    ],
    ids=["mark", "call", "module"],
)
def test_ci_accepts_no_skip_but_for_a_capability(
    example: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    source = f"import pytest\n{body}\n"

    here = run(example, test_example=source)
    monkeypatch.setenv("CI", "true")
    in_ci = run(example, test_example=source)

    assert last_line(here) == "0 passed, 0 failed, 1 skipped"
    assert last_line(in_ci) == "0 passed, 1 failed, 0 skipped"
    in_ci.stdout.fnmatch_lines(["*skipped in CI, and not for want of a capability: later*"])


def test_ci_accepts_a_skip_for_a_capability(
    example: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")

    result = run(
        example,
        test_example="""
            from tests import suite_report

            def test_it(request):
                suite_report.skip_for_capability(request.node, "SCTP sockets: none here")
        """,
    )

    assert last_line(result) == "0 passed, 0 failed, 1 skipped"
    assert result.ret == pytest.ExitCode.OK


def test_a_test_whose_teardown_fails_counts_once_as_failed(example: pytest.Pytester) -> None:
    result = run(
        example,
        test_example="""
            import pytest

            @pytest.fixture
            def broken():
                yield
                assert False

            def test_it(broken): pass
        """,
    )

    assert last_line(result) == "0 passed, 1 failed, 0 skipped"


def test_a_failure_stays_one_when_the_teardown_skips(example: pytest.Pytester) -> None:
    result = run(
        example,
        test_example="""
            import pytest

            @pytest.fixture
            def hesitant():
                yield
                pytest.skip("cannot clean up here")

            def test_it(hesitant): assert False
        """,
    )

    assert last_line(result) == "0 passed, 1 failed, 0 skipped"


def test_a_module_that_cannot_be_imported_counts_as_failed(example: pytest.Pytester) -> None:
    result = run(example, test_example="import a_module_nobody_has\n")

    assert last_line(result) == "0 passed, 1 failed, 0 skipped"
