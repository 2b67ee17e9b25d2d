"""The batch script for Slurm: what is in it, that bash can read it, and that words in it stay words."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from auditor.jobs.slurm import write_script
from tests.journeys.running import auditor


def script_of(folder, *arguments):
    told = auditor(*arguments, "--slurm", folder / "job.sh", "--json")
    assert told.code == 0, told.out + told.err
    assert told.json == {"script": str(folder / "job.sh"), "submit with": f"sbatch {folder / 'job.sh'}"}
    return folder / "job.sh"


def run_with_stand_ins(script, folder):
    """Run the script with `srun` and `scontrol` that note what they are given; the words of srun's command."""
    place = folder / "bin"
    place.mkdir()
    note = "import json, sys; json.dump(sys.argv[1:], open('srun.json', 'w'))"
    srun = f'echo "$OMP_NUM_THREADS $RAYON_NUM_THREADS" > threads; exec python3 -c "{note}" "$@"'
    for name, body in {"srun": srun, "scontrol": "echo node7; echo node8"}.items():
        (place / name).write_text(f"#!/bin/bash\n{body}\n")
        (place / name).chmod(0o755)
    environment = {"PATH": f"{place}:/usr/bin:/bin", "SLURM_JOB_ID": "41", "SLURM_JOB_NUM_NODES": "2"}
    environment |= {"SLURM_JOB_NODELIST": "node[7-8]", "SLURM_CPUS_PER_TASK": "16"}
    done = subprocess.run(["bash", script], env=environment, capture_output=True, text=True, cwd=folder)
    return done.returncode, json.loads((folder / "srun.json").read_text())


def test_that_the_script_runs_the_verb_on_every_gpu_and_goes_on_when_requeued(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = script_of(
        tmp_path, "train", "--store", "a store's.store", "--k=8", "--half", "--sweep=k=8,16; seed=0,1",
        "--project", "p q", "--nodes=2", "--processes=4", "--shard-features",
    )  # fmt: skip
    text = path.read_text()
    for line in (
        "#SBATCH --nodes=2", "#SBATCH --gpus-per-node=4", "#SBATCH --requeue", "#SBATCH --job-name=job",
        "HF_HUB_OFFLINE=1", "trap 'scontrol requeue",
    ):  # fmt: skip
        assert line in text
    assert not re.search("@[A-Z]+@", text)
    assert not list(tmp_path.glob("p q")), "nothing is run"
    code, words = run_with_stand_ins(path, tmp_path)
    assert code == 0
    assert (tmp_path / "threads").read_text() == "4 4\n", "torch's and the tokenizers': 16 cores are shared"
    assert words[:1] == ["--kill-on-bad-exit=1"] and words[2:4] == ["-m", "torch.distributed.run"]
    assert words[4:9] == [
        "--nnodes=2", "--nproc-per-node=4", "--rdzv-id=41", "--rdzv-backend=c10d", "--rdzv-endpoint=node7:20041"
    ]  # fmt: skip
    assert words[9:] == [
        "-m", "auditor", "train", "--store=a store's.store", "--k=8", "--half", "--sweep=k=8,16; seed=0,1",
        f"--project={tmp_path / 'p q'}", "--distributed", "--shard-features",
    ]  # fmt: skip


def test_that_no_word_becomes_a_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["record", "--model=$(touch broken)", "--samples=`touch broken`;\ntouch broken # @GPUS@ 'quoted' \"twice\""]
    path = write_script(tmp_path / "x;y $z.sh", words, 1, 1)
    subprocess.run(["bash", "-n", path], check=True)
    code, given = run_with_stand_ins(path, tmp_path)
    assert code == 0 and given[-3:] == words and not (tmp_path / "broken").exists()
    assert "#SBATCH --job-name=x-y-z\n" in path.read_text()


def test_that_nothing_is_overwritten_and_contradictions_are_told(tmp_path):
    (tmp_path / "job.sh").write_text("mine")
    told = auditor("train", "--slurm", tmp_path / "job.sh")
    assert told.code == 2 and "exists already" in told.err and (tmp_path / "job.sh").read_text() == "mine"
    for arguments, said in [
        (("train", "--nodes=2"), "--slurm FILE"), (("train", "--shard-features"), "--processes N"),
        (("train", "--distributed"), "torchrun --nproc-per-node"),
    ]:  # fmt: skip
        told = auditor(*arguments, "-p", tmp_path / "p")
        assert told.code == 2 and said in told.out + told.err and not (tmp_path / "p").exists()


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck")
def test_that_shellcheck_finds_nothing(tmp_path):
    subprocess.run(["shellcheck", write_script(tmp_path / "job.sh", ["train"], 1, 1)], check=True)
