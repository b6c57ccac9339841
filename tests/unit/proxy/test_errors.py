"""The errors carry what their catcher needs, and read as one line for people."""

import pytest

from proxy.errors import ApiError, Busy, ConfigError, KernelError, ProxyError, Unsupported


@pytest.mark.parametrize("error", [ConfigError, ApiError, Unsupported, KernelError, Busy])
def test_every_error_is_a_proxy_error(error: type[Exception]) -> None:
    assert issubclass(error, ProxyError)


def test_api_error_knows_the_status_if_there_was_an_answer() -> None:
    assert ApiError("list services: forbidden", status=403).status == 403
    assert ApiError("list services: connection refused").status is None


def test_unsupported_names_the_feature_and_the_reason() -> None:
    error = Unsupported("nft map with concatenated key", "kernel 4.19")

    assert error.feature == "nft map with concatenated key"
    assert str(error) == "nft map with concatenated key: kernel 4.19"
    assert str(Unsupported("ip_vs")) == "ip_vs"


def test_kernel_error_keeps_request_number_and_message() -> None:
    error = KernelError("add element 10.0.0.1", 17, "File exists")

    assert (error.request, error.errno, error.message) == (
        "add element 10.0.0.1",
        17,
        "File exists",
    )
    assert str(error) == "add element 10.0.0.1: File exists (errno 17)"


def test_kernel_error_of_a_tool_has_no_number_to_show() -> None:
    assert (
        str(KernelError("iptables-restore", 0, "line 3 failed"))
        == "iptables-restore: line 3 failed"
    )
