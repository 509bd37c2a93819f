"""Several processes, each with a part of a run, and a store for all: the same bits as one run."""

import json
import subprocess
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_tests.conftest import WHOLE, Gate, environment
from meta_tests.runs import run_of
from reports.__main__ import main
from robustness_tests.harness import option_values
from robustness_tests.harness.batches import BatchId, kept_together, share_of
from robustness_tests.harness.metric import Metric
from robustness_tests.harness.run import Shard
from robustness_tests.harness.shards import ShardNote, missing_shards, plan_of, read_notes, write_note

RUN = replace(run_of(), images=100)


@dataclass(frozen=True)
class Nothing:
    """A row without columns."""


def batch(_given):
    return {}


def metric(name, passes, *needs):
    return Metric(name=name, doc="", row=Nothing, batch=batch, passes=passes, needs=needs)


ATTACK, CERTIFICATE, NOISE = metric("attack", 100), metric("certificate", 400), metric("noise", 6)
EXACT = metric("exact", 50, ATTACK, CERTIFICATE)
EVERY = (ATTACK, CERTIFICATE, NOISE, EXACT)


def batches(metrics=EVERY, models=RUN.models, norms=("linf", "l2"), firsts=range(0, 100, 20)):
    return {
        BatchId(one.name, model, norm, first): one
        for one in metrics
        for model in models
        for norm in norms
        for first in firsts
    }


def cost(share, every):
    return sum(every[one].passes * 20 for one in share)


@given(
    metrics=st.lists(st.sampled_from(EVERY), unique=True, min_size=1),
    firsts=st.lists(st.sampled_from(range(0, 100, 20)), unique=True),
    count=st.integers(1, 40),
)
def test_each_batch_is_in_one_shard_beside_what_it_needs(metrics, firsts, count):
    every = batches(metrics, firsts=firsts)
    shares = [share_of(every, RUN, Shard(number, count)) for number in range(1, count + 1)]
    assert sorted(one for share in shares for one in share) == sorted(every)
    for share in shares:
        for one in share:
            needed = {one._replace(metric=need.name) for need in every[one].needs} & every.keys()
            assert needed <= set(share)
    loads, units = [cost(share, every) for share in shares], [cost(unit, every) for unit in kept_together(every)]
    # Graham's bound for any order of dealing out.
    assert max(loads) <= sum(units) / count + (1 - 1 / count) * max(units, default=0)


def test_shards_do_not_depend_on_the_order_of_tests():
    every = batches()
    backwards = dict(reversed(every.items()))
    assert share_of(every, RUN, Shard(2, 3)) == share_of(backwards, RUN, Shard(2, 3))


def test_expensive_batches_are_shared_out_evenly():
    """By counts, one shard could have all certificates. Here, 20 units of 550 passes and 20 of 6 are for 4 shards."""
    every = batches()
    loads = [cost(share_of(every, RUN, Shard(number, 4)), every) for number in range(1, 5)]
    assert loads == [20 * (5 * 550 + 5 * 6)] * 4


def note(shard, shards=3, plan="a" * 16, failed=()):
    return ShardNote(plan, shard, shards, ["attack/robust/a.safetensors"], 0, failed, 1000, 2.0, "node")


def test_notes_of_a_store(tmp_path):
    for one in (note(1), note(3), note(1), note(2, 4, "b" * 16)):
        write_note(tmp_path, one)
    for name, text in {"broken": "{", "other": "[]", "renamed": json.dumps(vars(note(2)))}.items():
        (tmp_path / "shards" / f"{name}.json").write_text(text)
    for number, (name, value) in enumerate(
        {"files": 5, "failed": [1], "seconds": "x", "shard": 0, "shards": 10**9, "stored": True, "passes": None}.items()
    ):
        wrong = replace(note(1, 1, f"{number:016}"), **{name: value})
        (tmp_path / "shards" / wrong.file).write_text(json.dumps(vars(wrong)))
    found = read_notes(tmp_path)
    assert [(one.plan[0], one.shard, one.shards) for one in found] == [("a", 1, 3), ("a", 3, 3), ("b", 2, 4)]
    assert missing_shards(found) == {("a" * 16, 3): [2], ("b" * 16, 4): [1, 3, 4]}
    assert not read_notes(tmp_path / "empty")


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"images": 99}, {"digests": {"robust": "x"}}, {"batch_sizes": {"robust": 5}}]
)
def test_another_run_has_another_plan(changes):
    assert plan_of(replace(RUN, **changes)) != plan_of(RUN) == plan_of(replace(RUN, started=5.0, fresh=True))


def store_of(folder, *notes, content=b"bits"):
    path = folder / "measurements/attack/robust/a.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    for one in notes:
        write_note(folder / "measurements", one)
    return str(folder)


def merged(tmp_path, capsys, *folders):
    """Exit status, what is printed, and problems."""
    status = 0
    try:
        main(["merge", *folders, "--results", str(tmp_path / "all")])
    except SystemExit as error:
        status = error.code
    out, err = capsys.readouterr()
    return status, out.splitlines(), [line.removeprefix("python -m reports merge: ") for line in err.splitlines()]


def test_merge(tmp_path, capsys):
    one, two = store_of(tmp_path / "1", note(1), note(2)), store_of(tmp_path / "2", note(3))
    (tmp_path / "2/measurements/attack/robust/b.safetensors").write_bytes(b"others")
    (tmp_path / "2/measurements/attack/robust/c.node-1.partial").write_bytes(b"half")
    status, out, problems = merged(tmp_path, capsys, one, two)
    assert (status, problems) == (0, [])
    assert out[:2] == [f"{one}: 1 batches", f"{two}: 1 batches"]
    assert [line.split()[:2] for line in out[2:]] == [["shard", "batches"], ["1/3", "1"], ["2/3", "1"], ["3/3", "1"]]
    kept = {path.name: path.read_bytes() for path in (tmp_path / "all/measurements/attack/robust").iterdir()}
    assert kept == {"a.safetensors": b"bits", "b.safetensors": b"others"}


@pytest.mark.parametrize(
    ("notes", "content", "message"),
    [
        ([note(1), note(2)], b"bits", "shard 3 of 3 missing: the run that follows measures what they lack"),
        ([], b"bits", "got no note of a shard, expected those that --shard leaves: did the shards end?"),
        ([note(1, 1), note(1, 1, "b" * 16)], b"bits", "got shards of several runs, with other options"),
        ([note(1, 1, failed=["exact[robust]"])], b"bits", "exact[robust] failed in shard 1 of 1"),
        ([note(1, 1), note(1, 2), note(1, 3)], b"bitz", "got another content of attack/robust/a.safetensors from"),
    ],
)
def test_merge_says_what_is_wrong(tmp_path, capsys, notes, content, message):
    one, two = store_of(tmp_path / "1", *notes), store_of(tmp_path / "2", content=content)
    status, _, problems = merged(tmp_path, capsys, one, two)
    assert status == 1
    assert len(problems) == 1
    assert problems[0].startswith(message)
    assert (tmp_path / "all/measurements/attack/robust/a.safetensors").read_bytes() == b"bits"


def test_merge_of_no_store(tmp_path, capsys):
    assert merged(tmp_path, capsys, str(tmp_path / "nowhere"))[0] == 2


def records_in(folder):
    """Outcomes and values of the tests of a run, without what tells whether a number was stored."""
    records = json.loads((folder / "results.json").read_text())["records"]
    return [(record["test"], record["outcome"], {**record["values"], "stored": None}) for record in records]


def batches_in(store):
    return {path.relative_to(store): path.read_bytes() for path in store.rglob("*.safetensors")}


def at_once(gate, *commands):
    """Run several gates at the same time; what each prints. So few images may be too few for a requirement."""
    runs = [
        subprocess.Popen(Gate.command(*command), cwd=gate.folder, env=environment(), stdout=subprocess.PIPE, text=True)
        for command in commands
    ]
    outputs = [run.communicate(timeout=300)[0] for run in runs]
    assert all(run.returncode in (0, 1) for run in runs), outputs
    return outputs


SMALL = (*WHOLE, "--images=4", "--batch-size=2")


def test_two_gates_at_once_share_their_store(gate):
    store = gate.folder / "shared"
    outputs = at_once(
        gate,
        *((way, *SMALL, f"--results={way}", f"--store={store}") for way in ("-n0", "-n2")),
        ("-n0", *SMALL, "--results=alone"),
    )
    assert not any("not stored" in output or "damaged" in output for output in outputs)
    assert batches_in(store) == batches_in(gate.folder / "alone/measurements")
    assert not list(store.rglob("*.partial"))
    alone, *others = (records_in(gate.folder / name) for name in ("alone", "-n0", "-n2"))
    assert others == [alone, alone]
    assert not (gate.folder / "-n0/measurements").exists()


def test_four_shards_are_one_run(gate, capsys):
    commands = [(way, *SMALL, f"--shard={n}/4", f"--results=s{n}") for n, way in enumerate(("-n0", "-n2") * 2, 1)]
    outputs = at_once(gate, *commands, ("-n0", *SMALL, "--results=one"))
    assert all("Nothing was asserted" in output and " failed" not in output for output in outputs[:4])
    assert not list(gate.folder.glob("s?/*.*")), "no results.json and no report"
    folders = [str(gate.folder / f"s{number}") for number in range(1, 5)]
    assert merged(gate.folder, capsys, *folders[:2], folders[3])[2] == [
        "shard 3 of 4 missing: the run that follows measures what they lack"
    ]
    (lost,) = at_once(gate, ("-n2", *SMALL, "--results=all", "--collect-only"))
    assert "robustness: not in the store: shard 3 of 4; what they lack is measured now" in lost
    assert "incomplete" not in lost
    assert merged(gate.folder, capsys, *folders)[0] == 0
    assert batches_in(gate.folder / "all/measurements") == batches_in(gate.folder / "one/measurements")
    again, last = at_once(gate, commands[0], ("-n2", *SMALL, "--results=all"))
    assert ", 0 passes, in " in again, "the same shard again measures nothing"
    assert "robustness: in the store: shards 1, 2, 3, 4 of 4" in last
    assert "(0 measured in this run" in last
    assert records_in(gate.folder / "all") == records_in(gate.folder / "one")


def test_more_shards_than_batches(gate):
    run = gate("-n0", *WHOLE, "--images=2", "-k", "test_noise_accuracy", "--shard=9/9")
    assert run.ret == 0
    run.stdout.fnmatch_lines(["shard 9/9: 0 batches (0 were stored before), 0 passes, in *"])
    assert (
        gate("-n0", *WHOLE, "--images=2", "-k", "no_such_test", "--shard=1/9").ret == pytest.ExitCode.NO_TESTS_COLLECTED
    )
    assert [one.shard for one in read_notes(gate.results_folder / "measurements")] == [9]


def test_a_batch_that_fails_is_named_and_the_others_are_measured(gate):
    (gate.folder / "conftest.py").open("a").write(
        "\nfrom robustness_tests.harness.fixtures import noise_accuracy\n"
        "def fail(given):\n    raise OverflowError('too much noise')\n"
        "object.__setattr__(noise_accuracy.NOISE_ACCURACY, 'batch', fail)\n"
    )
    run = gate("-n2", *WHOLE, "--images=2", "--shard=1/1")
    assert run.ret == 1
    run.stdout.fnmatch_lines(
        ["*OverflowError: too much noise*", "shard 1/1: * batches (0 were stored before, 2 failed)*"]
    )
    (left,) = read_notes(gate.results_folder / "measurements")
    assert left.failed == [f"shard::noise_accuracy[{name}-digits-linf-00000]" for name in ("robust", "standard")]
    assert set(left.files) == {path.as_posix() for path in batches_in(gate.results_folder / "measurements")}


def test_a_store_that_cannot_be_written_to_is_no_success(gate):
    (gate.folder / "store").mkdir()
    (gate.folder / "store/noise_accuracy").touch()
    run = gate("-n0", *WHOLE, "--images=2", "-k", "noise_accuracy", "--shard=1/1", "--store=store")
    assert run.ret == 1
    run.stdout.fnmatch_lines(["*got a store that cannot be written to*", "shard 1/1: 2 batches (*2 failed)*"])


def test_tests_of_a_user_with_models_and_images_of_their_own(gate):
    (gate.folder / "robustness_tests/test_mine.py").write_text(
        "import pytest\n\n"
        "@pytest.mark.parametrize('model_name', ['mine'])\n"
        "def test_mine(noise_accuracy, model_name, norm): pass\n\n"
        "@pytest.mark.parametrize('image', [1, 700])\n"
        "def test_far(noise_accuracy, image, model_name, norm): pass\n"
    )
    run = gate("-n0", *WHOLE, "--images=2", "robustness_tests/test_mine.py", "--shard=1/1")
    assert run.ret == 0
    run.stdout.fnmatch_lines(["shard 1/1: 2 batches (0 were stored before), *"])


def test_cleared_batches_are_not_said_to_be_there(tmp_path, capsys):
    one = store_of(tmp_path / "1", note(1, 1))
    main(["store", one, "--clear", "--all"])
    capsys.readouterr()
    assert not read_notes(tmp_path / "1/measurements")
    write_note(tmp_path / "1/measurements", note(1, 1))
    assert merged(tmp_path, capsys, one)[2] == ["1 batches of shard 1 of 1 are not in the store"]


def test_an_interrupted_shard_leaves_no_note(gate):
    run = gate("-n0", *WHOLE, "--images=2", "--shard=1/1", "-x", "--timeout-per-batch=0.01")
    run.stdout.fnmatch_lines(["shard 1/1 is incomplete: give the same command again"])
    assert not read_notes(gate.results_folder / "measurements")


@pytest.mark.parametrize("text", ["0/4", "5/4", "4", "1/0", "a/b", "1/4/2", "-1/4"])
def test_wrong_shards(text):
    with pytest.raises(ValueError, match=rf"^got '{text}', expected NUMBER/COUNT: 3/16 for the third of sixteen"):
        option_values.shard(text)
