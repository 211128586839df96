"""PPO's speed and memory: ours beside TRL 1.12, the last one that has PPO, on equal batches, epochs and lengths.

A random Llama of 4 layers and width 256 over 4,096 words, in float32, as policy, reference, reward model and (TRL's)
value model; prompts of 128 tokens and answers of 64, or of many lengths up to these. A forward in training holds
equally many answers on both sides. Every run is a process of its own, so that its peak memory is its own; CPU seconds
and tokens are of training alone, after the models are loaded.
"""

from __future__ import annotations

import copy
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from bench import race
from trainer import episodes, judges, modeling, optim, ppo, reward_model, sampler
from trainer.config import Lora, PpoOptions, RunConfig, parse_run
from trainer.device import process_peak_mb, setup
from trainer.records import Message, Prompt
from trainer.tree import Tree

PEER = "trl==1.12.0"
WORDS, PROMPT, ANSWER = 4096, 128, 64
EPISODES, ITERATIONS, EPOCHS, ROUNDS = 32, 1, 4, 2
RATE, RANK = 1e-5, 16
SHORTEST = 32  # of prompts of many lengths, which are spread evenly up to PROMPT
END_LOGIT = 5.0
"""What the end token has above the others where answers are of many lengths: it comes once in some 30 tokens."""
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


class Case(NamedTuple):
    """What is raced: `answers` of each prompt, and `forward` answers in one forward of training on both sides.

    Adapters may be trained instead of all weights; prompts and answers may be of many lengths instead of one.
    """

    title: str
    answers: int
    forward: int
    lora: bool = False
    many_lengths: bool = False

    @property
    def folder(self) -> str:
        """The folder of its models."""
        return "many" if self.many_lengths else "one"


CASES = (
    Case("all weights, one answer a prompt", 1, 8),
    Case("all weights, one answer a prompt, forwards of four answers", 1, 4),
    Case("all weights, four answers a prompt", 4, 8),
    Case("LoRA, four answers a prompt", 4, 8, lora=True),
    Case("all weights, one answer a prompt, many lengths", 1, 8, many_lengths=True),
    Case("all weights, four answers a prompt, many lengths", 4, 8, many_lengths=True),
)


def main() -> None:
    """Race in the environment of TRL 1.12, or say that it cannot be made."""
    race.in_peer_environment("bench.ppo_speed", peer=PEER)


# The models and the prompts, the same on both sides


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of made-up words, whose text gives back its ids."""
    vocabulary = {word: n for n, word in enumerate(["<pad>", "<end>", "<unk>", *(f"w{n}" for n in range(WORDS - 3))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unk>", chat_template=TEMPLATE
    )


def write_models(folder: Path, *, many_lengths: bool) -> None:
    """Write the policy to `policy` and the reward model to `reward`.

    For answers of many lengths every token carries a constant, which the output layer reads for the end token alone.
    """
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=not many_lengths,
    )
    policy = LlamaForCausalLM(config)
    if many_lengths:
        with torch.no_grad():
            policy.model.embed_tokens.weight[:, 0] = 1.0
            found = policy.model(torch.arange(len(tokenizer))[None, :PROMPT]).last_hidden_state[0, :, 0].mean()
            policy.lm_head.weight[tokenizer.eos_token_id, 0] = END_LOGIT / found
    policy.save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    config.num_labels = 1
    judge = reward_model.RewardModel(LlamaForSequenceClassification(config).eval(), tokenizer)
    reward_model.save_reward(judge, folder / "reward", PROMPT + ANSWER + 1)


def prompts_of(case: Case) -> list[str]:
    """Return the prompts of all iterations."""
    draw = random.Random(0)
    count = ITERATIONS * EPISODES // case.answers
    shortest = SHORTEST if case.many_lengths else PROMPT
    lengths = [shortest + (PROMPT - shortest) * n // max(1, count - 1) for n in range(count)]
    draw.shuffle(lengths)
    return [" ".join(f"w{draw.randrange(WORDS - 3)}" for _ in range(length)) for length in lengths]


# The two sides


def ours(folder: Path, case: Case) -> dict[str, float]:
    """Train with Plackett's PPO and return what it took."""
    prompts = [Prompt(str(n), (Message("user", text),)) for n, text in enumerate(prompts_of(case))]
    count = EPISODES // case.answers
    trees: list[Tree] = []
    words = sum(len(prompt.messages[0].content.split()) for prompt in prompts) // len(prompts)
    usual = ANSWER // 2 if case.many_lengths else ANSWER
    given = {
        "reward_model": str(folder / "reward"),
        "iterations": ITERATIONS,
        "answers_per_prompt": case.answers,
        "ppo_epochs": EPOCHS,
        "minibatches": 1,
        "sampling": {"max_new_tokens": ANSWER, "temperature": 1.0, "batch_size": EPISODES},
        "optim": {
            "learning_rate": RATE,
            "batch_size": EPISODES,
            "tokens_per_forward": case.forward * (words // case.answers + usual),
        },
    }
    run = {"run_id": "bench", "method": "ppo", "model": str(folder / "policy"), "precision": "float32", "device": "cpu"}
    config: RunConfig = parse_run(run | {"options": given, "lora": {"rank": RANK} if case.lora else None})
    options = config.options
    assert isinstance(options, PpoOptions)
    device, tokenizer = setup(config), modeling.load_tokenizer(config.model)
    jury = judges.load_judges(options, device, config.max_length)
    actor = ppo.load_actor(config, device, jury[0])
    layout = modeling.choose_layout(actor.policy, options.optim.tokens_per_forward, device, actor.frozen)
    answerer = sampler.load_sampler(folder, config, actor.policy, tokenizer, device)
    optimizers = {name: optim.build(module.parameters(), options.optim) for name, module in actor.modules().items()}

    def train() -> None:
        for iteration in range(1, ITERATIONS + 1):
            answerer.load(actor.policy, iteration)
            chosen = prompts[(iteration - 1) * count : iteration * count]
            rolled = episodes.roll_out(answerer, tokenizer, jury, chosen, config, iteration, device)
            trees.extend(rolled.trees)
            epochs = [episodes.minibatches(count, 1, 0, iteration, epoch) for epoch in range(EPOCHS)]
            measures = episodes.measure(actor, rolled, epochs[0], options, layout)
            rewards = ppo.rewards_of(rolled, measures, rolled.objective(1.0), options.kl_coefficient, options)
            targets = ppo.aim(rolled, measures, rewards, options)
            ppo.update(actor, optimizers, rolled, measures, targets, epochs, iteration, 0.05, [], config, layout)

    trunks = [modeling.core(actor.policy).base_model, jury[0].model.trunk]
    trunks += [] if actor.frozen is None else [actor.frozen.base_model]
    copied = getattr(answerer, "_copy", None)  # no public name
    found = took(train, *trunks, *([] if copied is None else [copied.base_model]))
    return found | {"work": least_work(folder, trees, case)}


def peer(folder: Path, case: Case) -> dict[str, float]:
    """Train with TRL's PPOTrainer and return what it took."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    tokenizer = modeling.load_tokenizer(str(folder / "policy"))
    tokenizer.padding_side = "left"
    rows = [tokenizer.encode(text) for text in prompts_of(case) for _ in range(case.answers)]
    policy = LlamaForCausalLM.from_pretrained(folder / "policy", dtype=torch.float32)
    judge, value = (
        LlamaForSequenceClassification.from_pretrained(folder / "reward", dtype=torch.float32) for _ in range(2)
    )
    frozen = None if case.lora else copy.deepcopy(policy)
    settings = PPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=case.forward,
        gradient_accumulation_steps=EPISODES // case.forward,
        num_mini_batches=1,
        num_ppo_epochs=EPOCHS,
        total_episodes=ITERATIONS * EPISODES,
        local_rollout_forward_batch_size=EPISODES,
        response_length=ANSWER,
        temperature=1.0,
        stop_token="eos" if case.many_lengths else None,
        learning_rate=RATE,
        num_sample_generations=0,
        missing_eos_penalty=1.0,
        **race.PLAIN,
    )
    lora = Lora(rank=RANK)
    adapters = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = PPOTrainer(
        args=settings,
        processing_class=tokenizer,
        model=policy,
        ref_model=frozen,
        reward_model=judge,
        value_model=value,
        train_dataset=Dataset.from_dict({"input_ids": rows}),
        eval_dataset=Dataset.from_dict({"input_ids": rows[:1]}),
        peft_config=adapters if case.lora else None,
    )
    trainer.remove_callback(PrinterCallback)
    trunks = [modeling.core(trainer.policy_model).base_model, judge.model, value.model]
    return took(trainer.train, *trunks, *([] if frozen is None else [frozen.base_model]))


def least_work(folder: Path, trees: Sequence[Tree], case: Case) -> float:
    """Return the operations that these answers take at least, with a value head on the policy.

    Sampling, the reference and the reward model read them once, and every epoch goes forwards and backwards; adapters
    spare the gradients of the weights. What the policy says of them before the first step is known from sampling.
    """
    model = modeling.load_policy(str(folder / "policy"), torch.float32, torch.device("cpu"))
    read, judged = (race.floor(model.model, head, trees) / 3 for head in (model.lm_head, None))
    return 2 * read + judged + EPOCHS * (2 if case.lora else 3) * read


def took(train: Any, *trunks: torch.nn.Module) -> dict[str, float]:
    """Train, and return CPU seconds, token positions forwarded through all trunks, and the process's peak in MiB."""
    with race.counting(*trunks) as counts:
        started = time.process_time()
        train()
        seconds = time.process_time() - started
        return {"cpu": seconds, "tokens": sum(counts), "peak": process_peak_mb()}


def child(side: str, number: str, folder: str) -> None:
    """Run one side once and print what it took; memory is what came on top of the imports."""
    if side == "peer":
        import trl.experimental.ppo  # noqa: F401  # before memory is first looked at
    case = CASES[int(number)]
    before = race.resident_mb()
    found = {"ours": ours, "peer": peer}[side](Path(folder) / case.folder, case)
    more = {"memory": found.pop("peak") - before, "speed": race.product_speed()}
    print(json.dumps(found | more))


def run() -> None:
    """Race every case, each side in processes of its own, in turns."""
    race.only_in_peer_environment()
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            if not (Path(folder) / case.folder).exists():
                write_models(Path(folder) / case.folder, many_lengths=case.many_lengths)
        for number, case in enumerate(CASES):
            laps: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
            for _ in range(ROUNDS):
                for side in laps:
                    command = [sys.executable, "-W", "ignore", "-m", "bench.ppo_speed", side, str(number), folder]
                    told = subprocess.run(command, cwd=race.ROOT, check=True, capture_output=True, text=True).stdout
                    laps[side].append(json.loads(told.splitlines()[-1]))
                    print(f"  {case.title}, {side}: {laps[side][-1]}", file=sys.stderr, flush=True)
            report(case, laps["ours"], laps["peer"])


def report(case: Case, mine: list[dict[str, float]], theirs: list[dict[str, float]]) -> None:
    """Print one line; the least of the rounds counts, since other work only adds to it."""

    def least(laps: list[dict[str, float]], key: str) -> float:
        return min(lap[key] for lap in laps)

    count = ITERATIONS * EPISODES
    own, other = least(mine, "cpu"), least(theirs, "cpu")
    pairs = sorted(b["cpu"] / a["cpu"] for a, b in zip(mine, theirs, strict=True))
    memory, peak = least(mine, "memory"), least(theirs, "memory")
    tokens, others = mine[0]["tokens"], theirs[0]["tokens"]
    speed = max(lap["speed"] for lap in (*mine, *theirs))
    print(
        f"ppo_speed, {case.title}: {count} episodes, {EPOCHS} epochs, {ROUNDS} rounds; tokens {tokens:.0f} against "
        f"{others:.0f} ({others / tokens:.1f} times fewer); episodes a CPU second {count / own:.2f} against "
        f"{count / other:.2f} ({other / own:.1f} times, in the rounds {pairs[0]:.1f} to {pairs[-1]:.1f}); "
        f"{race.above_floor(mine[0]['work'], speed, own, other)}; peak memory "
        f"{memory:.0f} MiB against {peak:.0f} ({memory / peak:.0%})",
        flush=True,
    )


if __name__ == "__main__":
    child(*sys.argv[1:]) if len(sys.argv) > 1 else run()
