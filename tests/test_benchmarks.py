"""The benchmarks run from the command line and compare like with like."""

import json
import subprocess
import sys

import pytest
import torch

from benchmarks import quantisers
from benchmarks.__main__ import main
from rrvqlib import cli
from rrvqlib.latents.codebook import Codebook
from rrvqlib.latents.responsibilities import log_responsibilities


def test_the_smallest_benchmark_writes_its_numbers(tmp_path, capsys):
    out = tmp_path / "numbers.json"
    main(["responsibilities", "--size", "small", "--repeats", "2", "--json", str(out)])
    results = json.loads(out.read_text())
    assert [t["name"] for t in results["responsibilities"]] == [
        "rrvqlib, matrix product",
        "naive broadcast",
    ]
    assert all(0 < t["least"] <= t["median"] <= t["most"] for t in results["responsibilities"])
    assert "ratio" in capsys.readouterr().out


def test_matrix_product_equals_broadcast_in_value_and_gradient():
    torch.manual_seed(0)
    codebook = Codebook(7, 5)
    with torch.no_grad():
        codebook.raw_log_variances.normal_()
    features = torch.randn(11, 5, requires_grad=True)
    results = []
    for function in (log_responsibilities, quantisers.broadcast_responsibilities):
        codebook.zero_grad()
        features.grad = None
        value = function(features, codebook)
        value.square().sum().backward()
        gradients = [features.grad, codebook.means.grad, codebook.raw_log_variances.grad]
        results.append([value.detach(), *(g.clone() for g in gradients)])
    for ours, naive in zip(*results, strict=True):
        torch.testing.assert_close(ours, naive, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["nearest", "groups", "draws"])
def test_the_peer_package_finds_the_same_codes(name, capsys):
    pytest.importorskip("vector_quantize_pytorch")
    main([name, "--size", "small", "--repeats", "1"])
    assert "vector-quantize-pytorch" in capsys.readouterr().out


def test_coding_is_timed(capsys):
    pytest.importorskip("constriction")
    main(["coding", "--repeats", "1"])
    assert "the coder alone" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv",
    [
        ["nothing"],
        ["--repeats", "0"],
        ["--threads", "1000000"],
        ["--json", "/proc/none/numbers.json"],
    ],
)
def test_bad_arguments_end_with_a_message(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.run(main, argv)
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert "error:" in err and not out  # before anything is measured


def test_help_does_not_import_torch():
    code = (
        "import runpy, sys\n"
        "sys.argv = ['benchmarks', '--help']\n"
        "try:\n"
        "    runpy.run_module('benchmarks', run_name='__main__')\n"
        "except SystemExit:\n"
        "    assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "usage" in done.stdout, done.stderr
