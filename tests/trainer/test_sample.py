"""The sample run: K answers to every prompt, and the same answers whether or not it was stopped on the way."""

from pathlib import Path

import pytest
from builders import MakeRun, ask, read_lines

from trainer import sample
from trainer.__main__ import main
from trainer.config import load_run
from trainer.records import EXIT_BAD_INPUT, EXIT_DONE, EXIT_STOPPED, Prompt, read_samples
from trainer.stop import StopSignal

PROMPTS = [Prompt(f"p{n}", ask("what about " + "more " * n)) for n in range(5)]
OPTIONS = {"samples_per_prompt": 3, "sampling": {"max_new_tokens": 6, "batch_size": 6, "temperature": 1.0}}


class StopAfter(StopSignal):
    """Asks to stop once so many lines of metrics are written."""

    def __init__(self, run_dir: Path, lines: int) -> None:
        self.path, self.lines = run_dir / "metrics.jsonl", lines

    @property
    def requested(self) -> bool:  # type: ignore[override]
        return self.path.exists() and len(read_lines(self.path)) >= self.lines


def test_every_prompt_gets_k_answers_and_progress_counts_prompts(make_run: MakeRun) -> None:
    run_dir = make_run("sample", prompts=PROMPTS, options=OPTIONS)
    assert main(["sample", "--run", str(run_dir)]) == EXIT_DONE

    samples = read_samples(run_dir / "samples.jsonl")
    assert [(row.prompt_id, row.index) for row in samples] == [(f"p{n}", k) for n in range(5) for k in range(3)]
    assert all(1 <= row.tokens <= 6 for row in samples)
    assert len({row.text for row in samples}) > 10
    rows = read_lines(run_dir / "metrics.jsonl")
    assert [(row["step"], row["total_steps"]) for row in rows] == [(2, 5), (4, 5), (5, 5)]
    assert (run_dir / "report.md").exists()


def test_a_stopped_run_goes_on_and_ends_as_an_uninterrupted_one(make_run: MakeRun) -> None:
    whole = make_run("sample", name="whole", prompts=PROMPTS, options=OPTIONS)
    assert main(["sample", "--run", str(whole)]) == EXIT_DONE

    run_dir = make_run("sample", name="stopped", prompts=PROMPTS, options=OPTIONS)
    assert sample.run(run_dir, load_run(run_dir), StopAfter(run_dir, 1)) == EXIT_STOPPED
    assert len(read_samples(run_dir / "samples.jsonl")) == 6
    with (run_dir / "samples.jsonl").open("ab") as file:  # what a crash in the second batch would leave
        file.write((whole / "samples.jsonl").read_bytes().splitlines(keepends=True)[6] + b'{"policy": "')
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "ti')
    assert main(["sample", "--run", str(run_dir)]) == EXIT_DONE
    assert (run_dir / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()
    assert [row["step"] for row in read_lines(run_dir / "metrics.jsonl")] == [2, 4, 5]


def test_a_finished_run_started_again_samples_nothing_and_changes_nothing(make_run: MakeRun) -> None:
    run_dir = make_run("sample", prompts=PROMPTS, options=OPTIONS)
    assert main(["sample", "--run", str(run_dir)]) == EXIT_DONE
    before = (run_dir / "samples.jsonl").read_bytes(), (run_dir / "metrics.jsonl").read_bytes()
    assert main(["sample", "--run", str(run_dir)]) == EXIT_DONE
    assert ((run_dir / "samples.jsonl").read_bytes(), (run_dir / "metrics.jsonl").read_bytes()) == before


def test_the_seed_decides_the_answers(make_run: MakeRun) -> None:
    texts = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run_dir = make_run("sample", name=name, prompts=PROMPTS, options=OPTIONS, seed=seed)
        assert main(["sample", "--run", str(run_dir)]) == EXIT_DONE
        texts.append([row.text for row in read_samples(run_dir / "samples.jsonl")])
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("prompts", "max_length", "sentence"),
    [
        ([], 512, "holds no prompt"),
        ([*PROMPTS, Prompt("endless", ask("why " * 30))], 64, "Prompt endless has 123 tokens"),
    ],
)
def test_prompts_that_cannot_be_answered_are_refused_in_one_sentence(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], prompts: list[Prompt], max_length: int, sentence: str
) -> None:
    run_dir = make_run("sample", prompts=prompts, options=OPTIONS, max_length=max_length)
    assert main(["sample", "--run", str(run_dir)]) == EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not (run_dir / "samples.jsonl").exists()


def test_answers_to_other_prompts_are_not_added_to(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    done = make_run("sample", name="done", prompts=PROMPTS, options=OPTIONS)
    assert main(["sample", "--run", str(done)]) == EXIT_DONE
    other = make_run("sample", name="other", prompts=PROMPTS[::-1], options=OPTIONS)
    kept = (done / "samples.jsonl").read_bytes()
    (other / "samples.jsonl").write_bytes(kept)
    assert main(["sample", "--run", str(other)]) == EXIT_BAD_INPUT
    assert "answers to other prompts" in capsys.readouterr().err
    assert (other / "samples.jsonl").read_bytes() == kept


def test_several_policies_share_the_answers_and_their_names_stand_in_them(make_run: MakeRun, tiny_model: str) -> None:
    policies = [
        {"name": "calm", "model": tiny_model, "share": 2.0, "temperature": 0.0},
        {"name": "wild", "model": tiny_model, "share": 1.0},
    ]
    run_dir = make_run("sample", prompts=PROMPTS, options={**OPTIONS, "policies": policies})
    assert main(["sample", "--run", str(run_dir)]) == EXIT_DONE
    whole = (run_dir / "samples.jsonl").read_bytes()
    samples = read_samples(run_dir / "samples.jsonl")
    assert sorted((row.prompt_id, row.index) for row in samples) == [(f"p{n}", k) for n in range(5) for k in range(3)]
    assert [row.policy for row in samples] == ["calm"] * 10 + ["wild"] * 5, "one model after the other"
    for prompt in PROMPTS:
        mine = [row for row in samples if row.prompt_id == prompt.id]
        assert len({row.text for row in mine if row.policy == "calm"}) == 1, "greedy answers do not differ"
    assert [row["step"] for row in read_lines(run_dir / "metrics.jsonl")] == [2, 3, 5]

    # Cut in the middle of the second policy's answers, it goes on with those.
    (run_dir / "samples.jsonl").write_bytes(b"".join(whole.splitlines(keepends=True)[:11]))
    assert main(["sample", "--run", str(run_dir)]) == EXIT_DONE
    assert (run_dir / "samples.jsonl").read_bytes() == whole


def test_shares_are_kept_exactly_on_average_and_up_to_one_answer_for_each_prompt() -> None:
    shares = [0.5, 0.3, 0.2]
    counts = [0, 0, 0]
    for n in range(2_000):
        chosen = sample.shared_out(f"p{n}", shares, 4, seed=1)
        assert chosen == sorted(chosen)
        for policy, share in enumerate(shares):
            counts[policy] += chosen.count(policy)
            assert abs(chosen.count(policy) - 4 * share) < 1
    # Of 8,000 answers the second policy has 2,400, give or take 2 standard errors of at most 22 each.
    assert counts[0] == 4_000
    assert abs(counts[1] - 2_400) < 60
    assert sample.shared_out("p", [3.0], 3, seed=1) == [0, 0, 0]
