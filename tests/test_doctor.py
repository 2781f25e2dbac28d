from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from profilers.compatibility import Package
from profilers.nvml import GpuDevice
from spnas_hw import doctor
from spnas_hw.cli import app
from spnas_hw.doctor import Finding


def test_a_complete_machine_is_healthy() -> None:
    shown = CliRunner().invoke(app, ["doctor"])
    assert shown.exit_code == 0 and "torch" in shown.output


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        doctor.importlib.util, "find_spec", lambda name: None if name in missing else real(name)
    )


def one(what: str) -> Finding:
    (finding,) = [finding for finding in doctor.examine() if finding.what == what]
    return finding


def gpu(name: str, capability: str, driver: str = "580.95.05", index: int = 0) -> GpuDevice:
    return GpuDevice(index, name, "hash", 16 << 30, capability, driver, f"GPU-secret{index}")


V100 = gpu("Tesla V100-SXM2-16GB", "7.0")
H200 = gpu("NVIDIA H200", "9.0")


def machine(monkeypatch: pytest.MonkeyPatch, *gpus: GpuDevice, **versions: str | None) -> None:
    """With these GPUs and distributions (named with _ for -), whatever is really installed of those."""
    real = importlib.metadata.version
    known = {name.replace("_", "-"): version for name, version in versions.items()}

    def version(name: str) -> str:
        found = known[name] if name in known else real(name)
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(doctor, "devices", lambda: list(gpus))
    monkeypatch.setattr(doctor, "cuda_driver_version", lambda: "13.0" if gpus else None)
    monkeypatch.setattr(doctor.importlib.metadata, "version", version)


def test_a_missing_package_names_its_command(monkeypatch) -> None:
    without(monkeypatch, "onnxruntime")
    finding = one("onnxruntime")
    assert not finding.ok and "pip install" in finding.remedy
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 1


def test_mmcv_without_operators_is_found(monkeypatch) -> None:
    """It installs that way, without a word, where it finds no torch."""
    without(monkeypatch, "mmcv._ext")
    finding = one("mmcv")
    assert not finding.ok and "--no-build-isolation" in finding.remedy


def test_what_is_optional_does_not_fail(monkeypatch) -> None:
    without(monkeypatch, "tensorrt_rtx", "cuda.bindings", "pynvml", "matplotlib")
    assert not one("tensorrt_rtx").ok and not one("cuda.bindings").ok
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0


def test_every_gpu_is_described(monkeypatch) -> None:
    machine(monkeypatch, V100, gpu("Tesla T4", "7.5", "535.54.03", index=1))
    assert one("GPU 0").found == (
        "Tesla V100-SXM2-16GB, compute capability 7.0, 16 GiB, driver 580.95.05, CUDA 13.0"
    )
    assert "Tesla T4, compute capability 7.5, 16 GiB, driver 535.54.03" in one("GPU 1").found
    shown = CliRunner().invoke(app, ["doctor", "--json"])
    assert shown.exit_code == 0 and "secret" not in shown.output
    assert len(json.loads(shown.output)) == len(doctor.examine())


def test_no_gpu_is_no_fault(monkeypatch) -> None:
    machine(monkeypatch)
    finding = one("GPU")
    assert (finding.found, finding.ok, finding.optional) == ("none", False, True)


def test_a_jetson_is_told_where_its_tensorrt_is(monkeypatch, tmp_path: Path) -> None:
    machine(monkeypatch)
    (tmp_path / "nv_tegra_release").touch()
    monkeypatch.setattr(doctor, "JETSON_RELEASE", tmp_path / "nv_tegra_release")
    assert "nvidia-jetpack" in one("GPU").remedy and one("GPU").optional


def advice() -> dict[str, tuple[str, str]]:
    """What is said of packages that do not run: package and version -> what is found, remedy."""
    whats = {name for name, *_ in (*doctor.PACKAGES, *doctor.RUNTIMES)} | {"python", "mmcv", "onnxruntime"}
    found = [each for each in doctor.examine() if each.what not in whats and not each.what.startswith("GPU")]
    assert all(each.optional and not each.ok for each in found)
    return {each.what: (each.found, each.remedy) for each in found}


def test_what_does_not_run_on_the_gpu_is_said(monkeypatch) -> None:
    machine(
        monkeypatch,
        V100,
        tensorrt_cu12_bindings="10.5.0",
        tensorrt_rtx_cu13_bindings=None,
        onnxruntime_gpu="1.31.1",
        cuda_bindings="12.9.4",
    )
    monkeypatch.setattr(doctor, "_cuda", lambda name: {"onnxruntime-gpu": "13"}.get(name))
    found = advice()
    assert found.keys() == {"tensorrt 10.5.0", "onnxruntime-gpu 1.31.1"}
    assert found["tensorrt 10.5.0"] == (
        "Tesla V100-SXM2-16GB: compute capability 7.0 needs a release before 10.5",
        "pip install tensorrt-cu12==10.4.0",
    )


def test_gpus_of_a_kind_are_advised_once(monkeypatch) -> None:
    machine(monkeypatch, H200, gpu("NVIDIA H200", "9.0", index=1), gpu("NVIDIA L4", "8.9", index=2))
    told = [finding for finding in doctor.examine() if finding.what.startswith("tensorrt-rtx ")]
    assert [finding.found for finding in told] == ["NVIDIA H200: no release runs on compute capability 9.0"]
    assert one("tensorrt_rtx").ok


def test_all_fine_is_no_advice(monkeypatch) -> None:
    machine(monkeypatch, gpu("NVIDIA L4", "8.9"))
    assert advice() == {}


def test_what_is_missing_is_asked_for_as_the_gpu_wants_it(monkeypatch) -> None:
    machine(monkeypatch, V100)
    without(monkeypatch, "tensorrt", "cuda.bindings", "onnxruntime")
    assert one("tensorrt").remedy == "pip install tensorrt-cu12==10.4.0"
    assert one("cuda.bindings").remedy == "pip install 'cuda-bindings<13'"
    assert "onnxruntime-gpu<1.27" in one("onnxruntime").remedy


def test_onnxruntime_tells_its_providers(monkeypatch) -> None:
    machine(monkeypatch, onnxruntime="1.32.0", onnxruntime_gpu=None)
    finding = one("onnxruntime")
    assert finding.ok and finding.found.startswith("onnxruntime 1.32.0, execution providers ")
    assert "CPU" in finding.found


def test_two_onnxruntimes_overwrite_each_other(monkeypatch) -> None:
    machine(monkeypatch, H200, onnxruntime="1.32.0", onnxruntime_gpu="1.31.1")
    finding = one("onnxruntime")
    assert finding.found == "onnxruntime 1.32.0 and onnxruntime-gpu 1.31.1, which overwrite each other"
    assert finding.remedy == "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
    assert not finding.ok and finding.optional


def test_a_broken_onnxruntime_is_a_finding(monkeypatch) -> None:
    class Broken(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise RuntimeError("libcudart.so.13: cannot open\nmore")

    broken = Broken("onnxruntime")
    broken.__spec__ = importlib.util.find_spec("onnxruntime")
    monkeypatch.setitem(sys.modules, "onnxruntime", broken)
    finding = one("onnxruntime")
    assert not finding.ok and finding.found.endswith("does not import: libcudart.so.13: cannot open")


def test_broken_packages_do_not_crash_it(monkeypatch) -> None:
    def breaks(name: str) -> None:
        raise ValueError(f"{name}.__spec__ is not set")

    monkeypatch.setattr(doctor.importlib.util, "find_spec", breaks)
    monkeypatch.setattr(doctor.importlib.metadata, "version", breaks)
    monkeypatch.setattr(doctor.importlib.metadata, "requires", breaks)
    found = {finding.what: finding for finding in doctor.examine()}
    assert found["torch"].found == "missing" and not found["mmcv"].ok
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 1


def torch_files(monkeypatch, folder: Path, version: str | None) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "__init__.py").touch()
    if version is not None:
        (folder / "version.py").write_text(version)
    spec = importlib.util.spec_from_file_location("torch", folder / "__init__.py")
    real = importlib.util.find_spec
    monkeypatch.setattr(
        doctor.importlib.util, "find_spec", lambda name: spec if name == "torch" else real(name)
    )


@pytest.mark.parametrize(
    ("text", "cuda"),
    [
        ("__version__ = '2.14.0+cu126'\ncuda: Optional[str] = '12.6'\n", "12.6"),
        ("cuda = '11.8'\n", "11.8"),
        ("debug = False\ncuda: Optional[str] = None\nhip: Optional[str] = None\n", None),
        ("", None),
        (None, None),
    ],
)
def test_the_cuda_of_torch_is_read(monkeypatch, tmp_path: Path, text: str | None, cuda: str | None) -> None:
    torch_files(monkeypatch, tmp_path / "torch", text)
    assert doctor._cuda("torch") == cuda
    assert one("torch").found.endswith(f", CUDA {cuda}") is (cuda is not None)


@pytest.mark.parametrize(
    ("requirements", "cuda"),
    [
        (["numpy", 'nvidia-cuda-runtime-cu12~=12.0; extra == "cuda"'], "12"),
        (['nvidia-cuda-nvrtc~=13.0; extra == "cuda"', 'nvidia-cuda-runtime~=13.0; extra == "cuda"'], "13"),
        (["numpy"], None),
        (None, None),
    ],
)
def test_the_cuda_of_onnxruntime_is_read(
    monkeypatch, requirements: list[str] | None, cuda: str | None
) -> None:
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: requirements)
    assert doctor._cuda("onnxruntime-gpu") == cuda


def test_the_cuda_of_a_name_is_read(monkeypatch) -> None:
    machine(monkeypatch, tensorrt_cu13_bindings="11.4.0.106", tensorrt_cu12_bindings="10.4.0", torch=None)
    installed = doctor._installed()
    assert installed["tensorrt"] == Package("11.4.0.106", "13")
    assert "torch" not in installed


def test_nothing_heavy_is_imported() -> None:
    """What `examine` learns of torch and the runtimes of GPUs, it learns without them."""
    import subprocess

    program = (
        "import sys; sys.modules['mmcv'] = None\n"
        "from spnas_hw.doctor import examine; examine()\n"
        "print([name for name in ('torch', 'tensorrt', 'tensorrt_rtx', 'cuda.bindings.driver') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
