"""The command line as a whole: help with an example, one-sentence errors, exit codes; also as a real process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from abcfx.cli.front import COMMANDS, main


def fail(capsys: pytest.CaptureFixture, *argv: str) -> str:
    """The one sentence that a command with bad arguments prints."""
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert f"example:\n  python -m abcfx {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "COMMAND"),
        (["paint"], "'paint'"),
        (["demo", "--wide"], "--wide"),
        (["demo", "--M", "9"], "M (weight_bases) must be an integer from 1 to 8, got 9"),
        (["demo", "--N", "0"], "N (activation_bases) must be an integer from 1 to 8, got 0"),
        (["demo", "--M", "two"], "'two'"),
        (["demo", "--batch", "0"], "positive integer"),
        (["demo", "--threads", "-1"], "positive integer"),
        (["demo", "--images", "0"], "positive integer"),
        (["demo", "--epochs", "-1"], "--epochs must be from 0 to 1000, got -1"),
        (["demo", "--data", "/no/such/folder"], "/no/such/folder does not exist"),
        (["summary"], "MODEL"),
        (["summary", "nothing"], "no file 'nothing'"),
        (["summary", "demo", "--M", "0"], "M (weight_bases) must be an integer"),
        (["summary", "demo", "--include", "stage9.*"], "include rule 'stage9.*' matches no layer"),
        (["summary", "demo", "--exclude", "*"], "no layer can be quantized"),
        (["summary", "demo", "--input", "1,three"], "--input 1,three: give sizes"),
        (["summary", "demo", "--input", "1,0"], "--input 1,0: give sizes"),
        (["summary", "demo", "--input", "1,2:text"], "the type must be one of float32"),
        (["summary", "demo", "--input", "1,3,28,28"], "demo failed on an input of 1,3,28,28"),
        (["summary", "no.such.package:model"], "cannot import no.such.package"),
        (["summary", "torch.nn:NoSuchLayer"], "torch.nn has no 'NoSuchLayer'"),
        (["summary", "torch.nn:Linear"], "torch.nn:Linear() failed"),
        (["summary", "torch.nn:ReLU"], "no layer can be quantized"),
        (["summary", "torch:pi"], "torch:pi is a float"),
        (["summary", "collections:OrderedDict"], "gave a OrderedDict, not an nn.Module"),
    ],
)
def test_bad_arguments_get_one_sentence(argv: list[str], message: str, capsys: pytest.CaptureFixture):
    assert message in fail(capsys, *argv)


def test_an_output_folder_that_is_a_file_is_an_error(tmp_path, capsys: pytest.CaptureFixture):
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in fail(capsys, "demo", "--out", str(tmp_path / "file"))


def test_as_a_process():
    done = subprocess.run([sys.executable, "-m", "abcfx", "summary", "nothing"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("abcfx summary: no file 'nothing'")
    assert len(done.stderr.splitlines()) == 1
