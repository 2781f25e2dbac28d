from __future__ import annotations

import pytest

from profilers.compatibility import (
    CUDA_GAPS,
    INSTALLS,
    RELEASE_GAPS,
    Misfit,
    Package,
    install_line,
    misfits,
    version_of,
)

DRIVER, PYTHON = "580.95.05", "3.11.7"
CU126 = "pip install --force-reinstall 'torch<2.15' --index-url https://download.pytorch.org/whl/cu126"
NAMES = {gap.package for gap in (*RELEASE_GAPS, *CUDA_GAPS)}


def faults(
    capability: str, driver: str | None = DRIVER, python: str = PYTHON, **packages: Package
) -> list[Misfit]:
    """Of packages named with _ for -."""
    installed = {name.replace("_", "-"): package for name, package in packages.items()}
    return misfits(capability, driver, python, installed)


def fault(capability: str, driver: str | None = DRIVER, python: str = PYTHON, **packages: Package) -> Misfit:
    (only,) = faults(capability, driver, python, **packages)
    return only


V100, T4, A100, A10, ORIN, L4, H200 = "7.0", "7.5", "8.0", "8.6", "8.7", "8.9", "9.0"
P4, B200, THOR, RTX5090, GB10 = "6.1", "10.0", "11.0", "12.0", "12.1"


@pytest.mark.parametrize(
    "capability", [P4, V100, T4, A100, A10, ORIN, L4, H200, B200, THOR, RTX5090, GB10, "99.0"]
)
def test_nothing_installed_is_nothing_wrong(capability: str) -> None:
    assert faults(capability) == []


@pytest.mark.parametrize(
    ("capability", "driver", "packages"),
    [
        (V100, "535.54", {"tensorrt": Package("10.4.0", "12"), "torch": Package("2.13.0+cu126", "12.6")}),
        (V100, DRIVER, {"onnxruntime-gpu": Package("1.26.0"), "cuda-bindings": Package("12.9.4")}),
        (V100, DRIVER, {"nvidia-cudnn-cu12": Package("9.10.2.21"), "torch": Package("2.10.0", "12.8")}),
        (P4, DRIVER, {"tensorrt": Package("8.6.1"), "torch": Package("2.13.0+cu126", "12.6")}),
        (T4, DRIVER, {"tensorrt": Package("11.4.0.106", "13"), "tensorrt-rtx": Package("1.7.1.116", "13")}),
        (A100, DRIVER, {"tensorrt": Package("10.16.1.11", "13"), "onnxruntime-gpu": Package("1.31.1")}),
        (ORIN, None, {"tensorrt": Package("10.3.0")}),
        (ORIN, None, {"tensorrt": Package("11.4.1")}),
        (H200, DRIVER, {"tensorrt": Package("11.4.0.106", "13"), "torch": Package("2.14.0", "13.0")}),
        (RTX5090, DRIVER, {"tensorrt": Package("10.8.0.43", "12"), "torch": Package("2.7.0", "12.8")}),
        (RTX5090, DRIVER, {"tensorrt-rtx": Package("1.0.0"), "onnxruntime-gpu": Package("1.31.1")}),
        (GB10, DRIVER, {"tensorrt-rtx": Package("1.5.0.114", "13")}),
        (B200, DRIVER, {"onnxruntime-gpu": Package("1.27.0")}),
        (H200, "535.54", {"torch": Package("2.13.0+cpu"), "cuda-bindings": Package("12.9.4")}),
        (V100, DRIVER, {"tensorrt": Package("unreadable"), "something": Package("1.0")}),
        ("99.0", DRIVER, {name: Package("99.0", "99.0") for name in NAMES}),
    ],
)
def test_what_fits(capability: str, driver: str | None, packages: dict[str, Package]) -> None:
    assert misfits(capability, driver, PYTHON, packages) == []


@pytest.mark.parametrize("version", ["10.5", "10.5.0", "10.14.1.48.post1", "11.4.0.106"])
def test_volta_ends_with_tensorrt_10_4(version: str) -> None:
    assert fault(V100, tensorrt=Package(version, "12")) == Misfit(
        "tensorrt",
        version,
        "compute capability 7.0 needs a release before 10.5",
        "pip install tensorrt-cu12==10.4.0",
    )


def test_what_writes_the_same_files_goes_first() -> None:
    remedy = fault(V100, tensorrt=Package("11.4.0.106", "13")).remedy
    assert remedy == (
        "pip uninstall -y tensorrt tensorrt-cu13 tensorrt-cu13-bindings tensorrt-cu13-libs "
        "&& pip install tensorrt-cu12==10.4.0"
    )


def test_wheels_of_old_releases_need_an_old_python() -> None:
    assert fault(V100, python="3.12.1", tensorrt=Package("10.5.0")).remedy.endswith("10.4.0")
    assert fault(V100, python="3.13.0", tensorrt=Package("10.5.0")).remedy == (
        "pip install tensorrt-cu12==10.4.0 (in a Python before 3.13)"
    )


def test_pascal_ends_with_tensorrt_8_6() -> None:
    remedy = fault(P4, tensorrt=Package("10.4.0")).remedy
    assert remedy == "pip install tensorrt==8.6.1 --extra-index-url https://pypi.nvidia.com"


@pytest.mark.parametrize("capability", [B200, "10.3", THOR, RTX5090, GB10])
def test_blackwell_begins_with_tensorrt_10_8(capability: str) -> None:
    found = fault(capability, tensorrt=Package("10.4.0", "12"))
    assert found.reason == f"compute capability {capability} needs a release from 10.8 on"
    expected = "nvidia-jetpack" if capability == THOR else "pip install --upgrade tensorrt-cu13"
    assert found.remedy.endswith(expected)


def test_orin_has_no_tensorrt_11_before_11_4_1() -> None:
    found = fault(ORIN, driver=None, tensorrt=Package("11.4.0.106"))
    assert found.reason == "compute capability 8.7 needs a release before 11 or from 11.4.1 on"
    assert found.remedy == "sudo apt install nvidia-jetpack"


@pytest.mark.parametrize(
    ("capability", "instead"),
    [
        (H200, "use --runtime tensorrt: pip install --upgrade tensorrt-cu13"),
        (A100, "use --runtime tensorrt: pip install --upgrade tensorrt-cu13"),
        (V100, "use --runtime tensorrt: pip install tensorrt-cu12==10.4.0"),
        (ORIN, "use --runtime tensorrt: sudo apt install nvidia-jetpack"),
    ],
)
def test_rtx_leaves_out_data_centers_and_jetson(capability: str, instead: str) -> None:
    found = fault(capability, tensorrt_rtx=Package("1.7.1.116", "13"))
    assert found.reason == f"no release runs on compute capability {capability}"
    assert found.remedy == instead == install_line("tensorrt-rtx", capability, DRIVER, PYTHON)


def test_rtx_knows_gb10_from_1_5() -> None:
    assert "from 1.5 on" in fault(GB10, tensorrt_rtx=Package("1.4.0.76", "13")).reason


@pytest.mark.parametrize("capability", [P4, V100])
def test_cuda_13_ended_with_turing(capability: str) -> None:
    found = faults(
        capability,
        tensorrt_rtx=Package("1.7.1.116", "13"),
        onnxruntime_gpu=Package("1.27.0"),
        torch=Package("2.14.0", "13.0"),
        cuda_bindings=Package("13.5.0"),
    )
    assert [each.remedy for each in found[1:]] == [
        "pip install 'onnxruntime-gpu<1.27' 'nvidia-cudnn-cu12<9.11'",
        CU126,
        "pip install 'cuda-bindings<13'",
    ]
    assert all("a build for CUDA before" in each.reason for each in found[1:])


def test_onnxruntime_says_what_it_is_built_for() -> None:
    assert faults(V100, onnxruntime_gpu=Package("1.30.0", cuda="12")) == []
    assert len(faults(V100, onnxruntime_gpu=Package("1.26.0", cuda="13"))) == 1


def test_volta_ends_with_cudnn_9_10() -> None:
    assert (
        fault(V100, nvidia_cudnn_cu12=Package("9.11.0.98")).remedy == "pip install 'nvidia-cudnn-cu12<9.11'"
    )
    assert faults(T4, nvidia_cudnn_cu12=Package("9.28.0.42")) == []


@pytest.mark.parametrize(
    ("capability", "version", "cuda", "runs"),
    [
        (V100, "2.6.0", "12.4", True),
        (V100, "2.7.1", "12.8", False),
        (V100, "2.8.0", "12.8", True),
        (V100, "2.10.0", "12.8", True),
        (V100, "2.11.0", "12.8", False),
        (V100, "2.9.0", "13.0", False),
        (P4, "2.10.0", "12.6", True),
        (P4, "2.10.0", "12.8", False),
        (T4, "2.14.0", "13.0", True),
        (RTX5090, "2.14.0", "12.6", False),
        (RTX5090, "2.9.0", "12.8", True),
    ],
)
def test_builds_of_torch(capability: str, version: str, cuda: str, runs: bool) -> None:
    assert (faults(capability, torch=Package(version, cuda)) == []) is runs


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        (("sm_75", "sm_80"), V100, False),
        (("sm_70",), V100, True),
        (("sm_60", "sm_80"), P4, True),
        (("sm_86",), A100, False),
        (("sm_80",), L4, True),
        (("sm_90",), B200, False),
        (("compute_90",), B200, True),
        (("compute_90a",), B200, False),
        (("compute_90f",), B200, False),
        (("sm_90a",), H200, True),
        (("sm_120",), GB10, True),
        (("sm_120a",), GB10, False),
        (("sm_120f",), GB10, True),
        (("gfx906",), V100, False),
    ],
)
def test_the_kernels_themselves_decide_where_known(
    architectures: tuple[str, ...], capability: str, runs: bool
) -> None:
    found = faults(capability, torch=Package("2.14.0", "12.6", architectures))
    assert (found == []) is runs
    assert all("no kernels" in each.reason for each in found)


def test_cuda_13_needs_driver_580() -> None:
    packages = {
        "tensorrt": Package("10.14.1.48", "13"),
        "torch": Package("2.14.0", "13.0"),
        "onnxruntime_gpu": Package("1.31.1"),
        "cuda_bindings": Package("13.5.0"),
    }
    found = faults(A100, driver="570.86.15", **packages)
    reason = "built for CUDA 13, which needs driver 580 or newer, not 570.86.15"
    assert [each.reason for each in found] == [reason] * 4
    assert all(each.remedy.startswith("update the driver to 580 or newer, or pip ") for each in found)
    remedies = " ".join(each.remedy for each in found)
    for wanted in (
        "&& pip install --upgrade tensorrt-cu12",
        CU126,
        "'onnxruntime-gpu<1.27'",
        "'cuda-bindings<13'",
    ):
        assert wanted in remedies
    assert faults(A100, driver="580.65.06", **packages) == []


def test_cuda_12_needs_driver_525() -> None:
    found = fault(T4, driver="515.105.01", tensorrt=Package("10.4.0", "12"))
    assert found.remedy == "update the driver to 525 or newer"
    assert faults(T4, driver="525.60.13", tensorrt=Package("10.4.0", "12")) == []


def test_blackwell_with_an_old_driver_keeps_cuda_12() -> None:
    line = install_line("torch", RTX5090, "570.86.15", PYTHON)
    assert line.endswith("/cu128") and "'torch<2.12'" in line


def test_the_gpu_counts_before_the_driver() -> None:
    assert fault(V100, driver="535.54", tensorrt=Package("11.4.0.106", "13")).remedy.endswith("==10.4.0")


def test_onnxruntime_lost_the_b200() -> None:
    found = fault(B200, onnxruntime_gpu=Package("1.31.1"))
    assert found.remedy == "pip install onnxruntime-gpu==1.27.0"


def test_onnxruntime_loads_tensorrt_10() -> None:
    found = fault(H200, tensorrt=Package("11.4.0.106", "13"), onnxruntime_gpu=Package("1.31.1"))
    assert found.package == "onnxruntime-gpu" and "loads TensorRT 10, not 11.4.0.106" in found.reason
    assert found.remedy == "use --runtime tensorrt, or pip install 'tensorrt-cu13<11'"
    assert faults(H200, tensorrt=Package("10.16.1.11", "13"), onnxruntime_gpu=Package("1.31.1")) == []
    assert faults(H200, tensorrt=Package("11.4.0.106", "13"), onnxruntime_gpu=Package("1.99.0")) == []


@pytest.mark.parametrize("capability", [P4, V100, T4, A100, ORIN, L4, H200, B200, THOR, RTX5090, GB10])
@pytest.mark.parametrize("driver", ["535.54", DRIVER, None])
def test_there_is_always_something_to_do(capability: str, driver: str | None) -> None:
    for package in sorted(NAMES - {"nvidia-cudnn-cu12"}):
        assert "install" in install_line(package, capability, driver, PYTHON)


@pytest.mark.parametrize("capability", [P4, V100, T4, A100, L4, H200, B200, RTX5090, GB10])
@pytest.mark.parametrize("driver", ["535.54", DRIVER])
def test_what_is_advised_to_install_fits(capability: str, driver: str) -> None:
    """The newest release that each command lets in."""
    newest = {
        "pip install tensorrt==8.6.1 --extra-index-url https://pypi.nvidia.com": ("8.6.1", "12"),
        "pip install tensorrt-cu12==10.4.0": ("10.4.0", "12"),
        "pip install --upgrade tensorrt-cu12": ("11.4.0.106", "12"),
        "pip install --upgrade tensorrt-cu13": ("11.4.0.106", "13"),
        "pip install --upgrade tensorrt-rtx-cu12": ("1.7.1.116", "12"),
        "pip install --upgrade tensorrt-rtx-cu13": ("1.7.1.116", "13"),
        "pip install 'onnxruntime-gpu<1.27' 'nvidia-cudnn-cu12<9.11'": ("1.26.0", None),
        "pip install 'onnxruntime-gpu<1.27'": ("1.26.0", None),
        "pip install onnxruntime-gpu==1.27.0": ("1.27.0", None),
        "pip install onnxruntime-gpu": ("1.31.1", None),
        CU126: ("2.14.0+cu126", "12.6"),
        "pip install --force-reinstall 'torch<2.12' --index-url https://download.pytorch.org/whl/cu128": (
            "2.11.0+cu128",
            "12.8",
        ),
        "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu130": (
            "2.14.0+cu130",
            "13.0",
        ),
        "pip install 'cuda-bindings<13'": ("12.9.10", None),
        "pip install cuda-bindings": ("13.5.0", None),
        "pip install 'nvidia-cudnn-cu12<9.11'": ("9.10.2.21", None),
    }
    assert {install.command for install in INSTALLS} == set(newest)
    for name in sorted(NAMES - {"nvidia-cudnn-cu12"}):
        line = install_line(name, capability, driver, PYTHON)
        if not line.startswith("use"):
            assert misfits(capability, driver, PYTHON, {name: Package(*newest[line])}) == []


@pytest.mark.parametrize("gap", [*RELEASE_GAPS, *CUDA_GAPS])
def test_every_fact_has_a_source_and_makes_sense(gap) -> None:
    assert len(gap.source) > 10
    assert gap.gpus[0] <= gap.gpus[1]
    if gap.first and gap.ended:
        assert version_of(gap.first) < version_of(gap.ended)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("10.14.1.48.post1", (10, 14, 1, 48)), ("2.13.0+cu126", (2, 13, 0)), ("11", (11,)), ("x", ()), ("", ())],
)
def test_versions_are_numbers(text: str, numbers: tuple[int, ...]) -> None:
    assert version_of(text) == numbers
