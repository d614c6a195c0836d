"""`ds01 run`: the process that asks becomes the command, and nothing of it stays behind."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from commands import Shell
from fake_allocator import FakeAllocator, Talk, blocker, denies, eventually, fails, grants

ONE = grants(("0:1", "2g.10gb"))


def test_the_process_that_asks_is_the_one_that_becomes_the_command(shell: Shell, allocator: FakeAllocator) -> None:
    allocator.answers["Run"] = [ONE]
    told = shell.ds01("run", "--", "sh", "-c", "echo $$")
    (asked,) = allocator.of("Run")
    assert told.stdout == f"{asked.pid}\n"
    assert told.stderr == ""


def test_what_is_asked(shell: Shell, allocator: FakeAllocator) -> None:
    allocator.answers["Run"] = [ONE]
    shell.ds01("run", "--gpus", "2x2g.10gb", "--", "/bin/echo", "secret")
    (asked,) = allocator.of("Run")
    request_id = asked.parameters.pop("request_id")
    assert asked.parameters == {"command": "echo", "gpus": "2x2g.10gb", "wait_s": 0.0}
    assert 8 <= len(request_id) <= 64
    assert request_id.replace("-", "").isalnum()


def test_one_unit_is_asked_for_where_nothing_is_said(shell: Shell, allocator: FakeAllocator) -> None:
    allocator.answers["Run"] = [ONE]
    shell.ds01("run", "true")
    assert allocator.of("Run")[0].parameters["gpus"] == "1"


def test_the_name_of_the_command_is_short_and_printable(shell: Shell, allocator: FakeAllocator) -> None:
    allocator.answers["Run"] = [ONE]
    script = shell.folder / ("\x1b[2J" + "n" * 80)
    script.write_text("#!/bin/sh\nexit 3\n")
    script.chmod(0o755)
    assert shell.ds01("run", "--", str(script)).returncode == 3
    assert allocator.of("Run")[0].parameters["command"] == "[2J" + "n" * 57


def test_the_environment_says_which_gpus(shell: Shell, allocator: FakeAllocator) -> None:
    allocator.answers["Run"] = [grants(("0:1", "2g.10gb"), ("1:0", "2g.10gb"))]
    shell.env["CUDA_VISIBLE_DEVICES"] = "of before"
    told = shell.ds01("run", "--gpus", "2", "env").stdout.splitlines()
    assert {line for line in told if "VISIBLE" in line or line.startswith(("DS01_LEASE", "DS01_GPU"))} == {
        "CUDA_VISIBLE_DEVICES=MIG-0-1,MIG-1-0",
        "NVIDIA_VISIBLE_DEVICES=MIG-0-1,MIG-1-0",
        "DS01_LEASE=l0123",
        "DS01_GPU=0:1,1:0",
    }
    assert f"PATH={shell.env['PATH']}" in told


def test_without_a_gpu_none_is_visible(shell: Shell, allocator: FakeAllocator) -> None:
    allocator.answers["Run"] = [grants()]
    told = shell.ds01("run", "--gpus", "0", "env").stdout.splitlines()
    assert allocator.of("Run")[0].parameters["gpus"] == "0"
    assert {"CUDA_VISIBLE_DEVICES=", "NVIDIA_VISIBLE_DEVICES=", "DS01_GPU="} <= set(told)


def test_input_output_and_exit_status_are_the_command_s(shell: Shell, allocator: FakeAllocator) -> None:
    allocator.answers["Run"] = [ONE]
    told = shell.ds01("run", "--", "sh", "-c", "cat; echo bad >&2; exit 42", stdin="in\n")
    assert (told.stdout, told.stderr, told.returncode) == ("in\n", "bad\n", 42)


def test_options_after_the_command_are_the_command_s(shell: Shell, allocator: FakeAllocator) -> None:
    allocator.answers["Run"] = [ONE]
    told = shell.ds01("run", "--gpus", "1", "echo", "--wait", "--gpus", "7", "--", "--help")
    assert told.stdout == "--wait --gpus 7 -- --help\n"
    assert allocator.of("Run")[0].parameters["wait_s"] == 0.0


def test_a_signal_ends_the_command_as_it_does_without_us(shell: Shell, allocator: FakeAllocator) -> None:
    allocator.answers["Run"] = [ONE]
    process = shell.start("ds01", "run", "--", "sh", "-c", "echo up; exec sleep 60")
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM


def test_a_pipe_that_nobody_reads_ends_the_command(shell: Shell, allocator: FakeAllocator) -> None:
    allocator.answers["Run"] = [ONE]
    process = shell.start("ds01", "run", "--", "yes")
    assert process.stdout is not None
    assert process.stdout.readline() == "y\n"
    process.stdout.close()
    assert process.wait(10) == -signal.SIGPIPE


def test_no_descriptor_of_ours_stays_open(shell: Shell, allocator: FakeAllocator) -> None:
    allocator.answers["Run"] = [ONE]
    told = shell.ds01("run", "--", "sh", "-c", "ls /proc/$$/fd")
    assert set(told.stdout.split()) == {"0", "1", "2"}


def test_the_command_has_the_terminal(shell: Shell, allocator: FakeAllocator) -> None:
    allocator.answers["Run"] = [ONE]
    terminal = shell.terminal("ds01", "run", "--", "sh", "-c", "tty -s && stty size; read x; echo got $x; exit 5")
    terminal.shows("24 160")
    terminal.type("this\n")
    assert terminal.ended() == 5
    assert terminal.screen[0] == "GPU 0:1 (2g.10gb) is yours until the command ends"
    assert "got this" in terminal.screen


def test_ctrl_c_on_the_terminal_is_the_command_s(shell: Shell, allocator: FakeAllocator) -> None:
    allocator.answers["Run"] = [ONE]
    terminal = shell.terminal(
        "ds01", "run", "--", "sh", "-c", "trap 'exit 9' INT; echo up; while :; do sleep 0.1; done"
    )
    terminal.shows("up")
    terminal.type("\x03")
    assert terminal.ended() == 9


def test_several_units_are_told_as_several(shell: Shell, allocator: FakeAllocator) -> None:
    allocator.answers["Run"] = [grants(("0:1", "2g.10gb"), ("2", "full"))]
    terminal = shell.terminal("ds01", "run", "--gpus", "2", "true")
    assert terminal.ended() == 0
    assert terminal.screen[0] == "GPU 0:1 (2g.10gb), 2 (full) are yours until the command ends"


def test_warnings_are_notes(shell: Shell, allocator: FakeAllocator) -> None:
    allocator.answers["Run"] = [grants(("0:1", "2g.10gb"), warnings=("one process can use one instance only",))]
    told = shell.ds01("run", "true")
    assert (told.stdout, told.stderr) == ("", "note: one process can use one instance only\n")


def put(folder: Path, name: str, text: str, mode: int) -> str:
    file = folder / name
    file.write_text(text)
    file.chmod(mode)
    return str(file)


def test_a_command_that_is_not_there_takes_no_lease(shell: Shell, allocator: FakeAllocator) -> None:
    told = shell.ds01("run", "--", "nonesuch")
    assert (told.stderr, told.returncode) == ("there is no command 'nonesuch'\n", 127)
    assert allocator.calls == []


@pytest.mark.parametrize("by_path", [True, False])
def test_a_file_that_is_not_executable_takes_no_lease(shell: Shell, allocator: FakeAllocator, by_path: bool) -> None:
    file = put(shell.folder, "plain", "#!/bin/sh\n", 0o644)
    shell.env["PATH"] += f":{shell.folder}"
    told = shell.ds01("run", file if by_path else "plain")
    assert told.returncode == 126
    assert told.stderr.startswith(f"'{file}' is not executable\n")
    assert allocator.calls == []


def test_a_folder_is_no_command(shell: Shell, allocator: FakeAllocator) -> None:
    told = shell.ds01("run", "/usr")
    assert (told.stderr, told.returncode) == ("'/usr' is a folder and no command\n", 126)
    assert allocator.calls == []


def test_an_interpreter_that_is_not_there(shell: Shell, allocator: FakeAllocator) -> None:
    allocator.answers["Run"] = [ONE]
    file = put(shell.folder, "script", "#!/no/such/thing\n", 0o755)
    told = shell.ds01("run", file)
    assert told.returncode == 127
    assert told.stderr == f"'{file}' can't be run: the interpreter that it names is not there\n"


def test_a_file_that_is_no_program(shell: Shell, allocator: FakeAllocator) -> None:
    allocator.answers["Run"] = [ONE]
    told = shell.ds01("run", put(shell.folder, "noise", "\x7fELF and then nothing\0", 0o755))
    assert told.returncode == 126 or "not found" in told.stderr


def test_a_script_without_an_interpreter_is_the_shell_s(shell: Shell, allocator: FakeAllocator) -> None:
    allocator.answers["Run"] = [ONE]
    told = shell.ds01("run", put(shell.folder, "script", 'echo "$1"; exit 4\n', 0o755), "a b")
    assert (told.stdout, told.returncode) == ("a b\n", 4)


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("none-free", 75),
        ("waited-in-vain", 75),
        ("over-units-per-container", 77),
        ("over-gpu-equivalents", 77),
        ("over-mig-instances", 77),
        ("over-group-total", 77),
        ("full-gpu-not-allowed", 77),
        ("not-a-request", 2),
        ("no-such-unit", 2),
        ("one-of-the-future", 77),
    ],
)
def test_the_exit_status_of_a_denial(shell: Shell, allocator: FakeAllocator, reason: str, status: int) -> None:
    allocator.answers["Run"] = [denies(reason, "that can't be", "do this")]
    told = shell.ds01("run", "touch", "started")
    assert (told.returncode, told.stdout) == (status, "")
    assert told.stderr == "that can't be\n  → do this\n"
    assert not (shell.folder / "started").exists()


def test_a_denial_says_who_would_have_to_end(shell: Shell, allocator: FakeAllocator) -> None:
    others = (blocker("0:1"), {**blocker("1:0", user="me", until=0.0), "mine": True, "name": "train._.1001"})
    allocator.answers["Run"] = [denies("none-free", "0 of 6 are free", "try again later", others)]
    message, hint, *rest = shell.ds01("run", "true").stderr.splitlines()
    assert (message, hint) == ("0 of 6 are free", "  → try again later")
    assert [line.split() for line in rest[:3]] == [
        ["would", "have", "to", "end", "first:"],
        ["WHOSE", "UNITS", "STATE", "UNTIL"],
        ["(student)", "0:1", "in", "use", "nobody", "knows"],
    ]
    assert rest[3].split()[:5] == ["you:", "train", "1:0", "in", "use"]


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        ("io.ds01.Allocator.NotPossible", 2, "there is no such thing\n"),
        ("io.ds01.Allocator.Unavailable", 69, "the GPU allocator can't tell: there is no such thing\n"),
        ("io.ds01.PeerRefused", 69, "the GPU allocator can't tell: there is no such thing\n"),
    ],
)
def test_what_stands_in_the_way(shell: Shell, allocator: FakeAllocator, error: str, status: int, words: str) -> None:
    allocator.answers["Run"] = [fails(error, message="there is no such thing")]
    told = shell.ds01("run", "true")
    assert (told.stderr, told.returncode) == (words, status)


def test_nobody_there(shell: Shell) -> None:
    told = shell.ds01("run", "true")
    assert told.returncode == 69
    assert "the GPU allocator does not answer" in told.stderr


@pytest.mark.parametrize("raw", [b"no JSON\0", b"[]\0"])
def test_an_answer_that_is_none_is_asked_for_again(shell: Shell, allocator: FakeAllocator, raw: bytes) -> None:
    allocator.answers["Run"] = [lambda talk: talk.send(raw), ONE]
    assert shell.ds01("run", "echo", "ran").stdout == "ran\n"
    first, second = allocator.of("Run")
    assert first.parameters == second.parameters


def test_an_answer_in_pieces(shell: Shell, allocator: FakeAllocator) -> None:
    def slowly(talk: Talk) -> None:
        talk.send(b'{"parameters": {"denial": null, "grant": {"lease": "l1", "state": "active", "units": [], ')
        time.sleep(0.2)
        talk.send(b'"warnings": [], "until": null}}}\0')

    allocator.answers["Run"] = [slowly]
    assert shell.ds01("run", "echo", "ran").stdout == "ran\n"


def test_ctrl_c_before_the_answer(shell: Shell, allocator: FakeAllocator) -> None:
    allocator.answers["Run"] = [allocator.in_turn(ONE)]
    process = shell.start("ds01", "run", "echo", "ran")
    eventually(lambda: allocator.of("Run"), "it has asked")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (out, err, process.returncode) == ("", "given up\n", 130)
    assert allocator.left.wait(10)


@pytest.mark.parametrize("words", [[], ["--"], ["--gpus", "2"], ["--gpus", "", "true"], ["--gpus", "\x1b", "true"]])
def test_wrong_usage(shell: Shell, allocator: FakeAllocator, words: list[str]) -> None:
    assert shell.ds01("run", *words).returncode == 2
    assert allocator.calls == []
