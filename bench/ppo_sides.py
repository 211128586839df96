"""One iteration of PPO, ours and TRL 1.12's (the last one that has it), on equal batches, epochs and lengths.

Random Llamas as policy, reference, reward model and (TRL's) value model, over made-up words whose text gives back its
ids. A forward in training holds equally many answers on both sides.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from bench import race
from bench.steps import Size
from trainer import episodes, judges, modeling, optim, ppo, reward_model, sampler
from trainer.allocator import keep_freed
from trainer.config import Lora, PpoOptions, RunConfig, parse_run
from trainer.device import Device, setup
from trainer.records import Message, Prompt
from trainer.tree import Tree

PEER = "trl==1.12.0"
EPOCHS, RATE, RANK = 4, 1e-5, 16
END_LOGIT = 5.0
"""What the end token has above the others where answers are of many lengths: it comes once in some 30 tokens."""
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


class Case(NamedTuple):
    """What is raced: `answers` of each prompt, and `forward` answers in one forward of training on both sides.

    Of `size` count the model and the lengths of prompts and answers; instead of one length each, these may be of many
    up to there. Adapters may be trained instead of all weights. On a GPU products are in bfloat16.
    """

    title: str
    size: Size
    answers: int
    forward: int
    lora: bool = False
    many_lengths: bool = False
    episodes: int = 32
    gpu: bool = False

    @property
    def folder(self) -> str:
        """The folder of its models."""
        return "many" if self.many_lengths else "one"

    @property
    def device(self) -> torch.device:
        """Where both sides compute."""
        return torch.device("cuda" if self.gpu else "cpu")

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the saved models."""
        return torch.bfloat16 if self.gpu else torch.float32


class Took(NamedTuple):
    """What an iteration took: CPU and wall seconds, and token positions through all trunks.

    `peak` is the most memory so far in MiB, the GPU's or the process's.
    """

    cpu: float
    seconds: float
    tokens: int
    peak: float


# The models and the prompts, the same on both sides


def build_tokenizer(words: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer of made-up words, whose text gives back its ids."""
    vocabulary = {word: n for n, word in enumerate(["<pad>", "<end>", "<unk>", *(f"w{n}" for n in range(words - 3))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unk>", chat_template=TEMPLATE
    )


def write_models(folder: Path, case: Case) -> None:
    """Write the policy to `policy` and the reward model to `reward`.

    For answers of many lengths every token carries a constant, which the output layer reads for the end token alone.
    """
    size, many = case.size, case.many_lengths
    tokenizer = build_tokenizer(size.vocabulary)
    torch.manual_seed(0)
    config = size.config(
        max_position_embeddings=2 * (size.prompt + size.answer),
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=not many,
    )
    with case.device:
        policy = LlamaForCausalLM(config).to(case.dtype)
        if many:
            with torch.no_grad():
                policy.model.embed_tokens.weight[:, 0] = 1.0
                words = torch.arange(len(tokenizer))[None, : size.prompt]
                policy.lm_head.weight[tokenizer.eos_token_id, 0] = (
                    END_LOGIT / policy.model(words).last_hidden_state[0, :, 0].mean()
                )
        policy.save_pretrained(folder / "policy")
        tokenizer.save_pretrained(folder / "policy")
        config.num_labels = 1
        judge = reward_model.RewardModel(LlamaForSequenceClassification(config).to(case.dtype).eval(), tokenizer)
    reward_model.save_reward(judge, folder / "reward", size.prompt + size.answer + 1)


def prompts_of(case: Case) -> list[str]:
    """Return the prompts."""
    draw = random.Random(0)
    count, longest = case.episodes // case.answers, case.size.prompt
    shortest = longest // 4 if case.many_lengths else longest
    lengths = [shortest + (longest - shortest) * n // max(1, count - 1) for n in range(count)]
    draw.shuffle(lengths)
    return [" ".join(f"w{draw.randrange(case.size.vocabulary - 3)}" for _ in range(length)) for length in lengths]


# The two sides


def ours(folder: Path, case: Case) -> tuple[Took, float]:
    """Train with Plackett's PPO; return what it took, and the operations that these answers take at least."""
    keep_freed()  # as `python -m trainer` does
    prompts = [Prompt(str(n), (Message("user", text),)) for n, text in enumerate(prompts_of(case))]
    trees: list[Tree] = []
    config = our_run(folder, case, sum(len(prompt.messages[0].content.split()) for prompt in prompts) // len(prompts))
    options = config.options
    assert isinstance(options, PpoOptions)
    device, tokenizer = setup(config), modeling.load_tokenizer(config.model)
    jury = judges.load_judges(options, device, config.max_length)
    actor = ppo.load_actor(config, device, jury[0])
    layout = modeling.choose_layout(actor.policy, options.optim.tokens_per_forward, device, actor.frozen)
    modeling.prepare_training(actor.policy, options.optim, device, actor.frozen)
    answerer = sampler.load_sampler(folder, config, actor.policy, tokenizer, device)
    optimizers = {name: optim.build(module.parameters(), options.optim) for name, module in actor.modules().items()}

    def train() -> None:
        answerer.load(actor.policy, 1)
        rolled = episodes.roll_out(answerer, tokenizer, jury, prompts, config, 1, device)
        trees.extend(rolled.trees)
        epochs = [episodes.minibatches(len(prompts), 1, 0, 1, epoch) for epoch in range(EPOCHS)]
        measures = episodes.measure(actor, rolled, epochs[0], options, layout)
        rewards = ppo.rewards_of(rolled, measures, rolled.objective(1.0), options.kl_coefficient, options)
        targets = ppo.aim(rolled, measures, rewards, options)
        ppo.update(actor, optimizers, rolled, measures, targets, epochs, 1, 0.05, [], config, layout)

    trunks = [modeling.core(actor.policy).base_model, jury[0].model.trunk]
    trunks += [] if actor.frozen is None else [actor.frozen.base_model]
    copied = getattr(answerer, "_copy", None)  # no public name
    found = took(case, train, *trunks, *([] if copied is None else [copied.base_model]))
    return found, least_work(modeling.core(actor.policy), trees, case)


def our_run(folder: Path, case: Case, words: int) -> RunConfig:
    """Return the configuration of our side, for prompts of so many words on average."""
    usual = case.size.answer // 2 if case.many_lengths else case.size.answer
    given = {
        "reward_model": str(folder / "reward"),
        "iterations": 1,
        "answers_per_prompt": case.answers,
        "ppo_epochs": EPOCHS,
        "minibatches": 1,
        "sampling": {"max_new_tokens": case.size.answer, "temperature": 1.0, "batch_size": case.episodes},
        "optim": {
            "learning_rate": RATE,
            "batch_size": case.episodes,
            "tokens_per_forward": case.forward * (words // case.answers + usual),
        },
    }
    run = {"run_id": "bench", "method": "ppo", "model": str(folder / "policy"), "device": case.device.type}
    precision = "bfloat16" if case.gpu else "float32"
    length = {"max_length": case.size.prompt + case.size.answer + 1}
    config: RunConfig = parse_run(
        run | length | {"precision": precision, "options": given, "lora": {"rank": RANK} if case.lora else None}
    )
    return config


def peer(folder: Path, case: Case) -> Took:
    """Train with TRL's PPOTrainer and return what it took.

    On a GPU all its models are in bfloat16, the quickest and smallest that it can be: it draws answers with the weights
    that it trains.
    """
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    tokenizer = modeling.load_tokenizer(str(folder / "policy"))
    tokenizer.padding_side = "left"
    rows = [tokenizer.encode(text) for text in prompts_of(case) for _ in range(case.answers)]
    policy = LlamaForCausalLM.from_pretrained(folder / "policy", dtype=case.dtype)
    judge, value = (
        LlamaForSequenceClassification.from_pretrained(folder / "reward", dtype=case.dtype) for _ in range(2)
    )
    frozen = None if case.lora else copy.deepcopy(policy)
    settings = PPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=case.forward,
        gradient_accumulation_steps=case.episodes // case.forward,
        num_mini_batches=1,
        num_ppo_epochs=EPOCHS,
        total_episodes=case.episodes,
        local_rollout_forward_batch_size=case.episodes,
        response_length=case.size.answer,
        temperature=1.0,
        stop_token="eos" if case.many_lengths else None,
        learning_rate=RATE,
        num_sample_generations=0,
        missing_eos_penalty=1.0,
        **race.plain(gpu=case.gpu),
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
    return took(case, trainer.train, *trunks, *([] if frozen is None else [frozen.base_model]))


def least_work(policy: Any, trees: Sequence[Tree], case: Case) -> float:
    """Return the operations that these answers take at least, with a value head on the policy.

    Sampling, the reference and the reward model read them once, and every epoch goes forwards and backwards; adapters
    spare the gradients of the weights. What the policy says of them before the first step is known from sampling.
    """
    with torch.device("meta"):
        plain = LlamaForCausalLM(policy.config)
    read, judged = (race.floor(plain.model, head, trees) / 3 for head in (plain.lm_head, None))
    return 2 * read + judged + EPOCHS * (2 if case.lora else 3) * read


def took(case: Case, train: Any, *trunks: torch.nn.Module) -> Took:
    """Train, and return what it took."""
    with race.counting(*trunks) as counts:
        cpu, started = time.process_time(), time.perf_counter()
        train()
        if case.gpu:
            torch.cuda.synchronize()
        cpu, seconds = time.process_time() - cpu, time.perf_counter() - started
    return Took(cpu, seconds, sum(counts), Device(case.device, torch.float32).peak_memory_mb())
