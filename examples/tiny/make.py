#!/usr/bin/env python3
"""Makes everything in examples/tiny that is not trained: tokenizer, configuration, fine-tuning data; and, on request, the
corpus that the base model is trained on. A function of the seed alone.

    python3 make.py                       tokenizer.json, *.json in model/, cot.jsonl      (needs: pip install tokenizers)
    python3 make.py --corpus FILE COUNT   COUNT documents as JSON lines {"text": ...}

The corpus is what a needle probe asks for and little else: sentences of a small grammar or RULER's noise lines with one needle
in them, the question, the answer. A model of a million weights that was trained on it can recall; it can do nothing else.
"""
import argparse
import json
import pathlib
import random
import uuid

HERE = pathlib.Path(__file__).resolve().parent
WORDS = HERE.parent.parent / "third_party" / "wonderwords" / "words.json"
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."

PEOPLE = "Ada Ben Cleo Dan Eva Finn Gita Hugo Iris Jon Kira Leo Mia Nils Olga Paul Rosa Sam Tara Udo Vera Will Yara Zoe".split()
THINGS = "apples books coins cups eggs flowers keys letters marbles nails pears pens plates shells stamps stones".split()
PLACES = "barn bridge castle forest garden harbour house kitchen market meadow mill office river school station street".split()
VERBS = "carried counted found hid kept left lost moved painted saw sold watched".split()


def sentence(rng):
    how = rng.choice(["quietly", "slowly", "early", "again", "at noon", "before dark", "in the rain", "after lunch", "with care"])
    form = rng.randrange(4)
    if form == 0:
        return f"{rng.choice(PEOPLE)} {rng.choice(VERBS)} the {rng.choice(THINGS)} near the {rng.choice(PLACES)} {how}."
    if form == 1:
        return f"The {rng.choice(PLACES)} was far from the {rng.choice(PLACES)}, and {rng.choice(PEOPLE)} knew it."
    if form == 2:
        return f"In the {rng.choice(PLACES)} {rng.choice(PEOPLE)} {rng.choice(VERBS)} {rng.randrange(2, 90)} {rng.choice(THINGS)} {how}."
    return f"\"{rng.choice(PEOPLE)} {rng.choice(VERBS)} it {how},\" said {rng.choice(PEOPLE)}."


def draw_key(rng, words):
    return f"{rng.choice(words['adjectives'])}-{rng.choice(words['nouns'])}"


def needle_document(rng, words, length):
    """About `length` tokens (five a sentence part): a haystack, a needle, the question, the answer."""
    kind = rng.choice(["number", "number", "uuid"])
    key = draw_key(rng, words)
    value = str(rng.randrange(1_000_000, 10_000_000)) if kind == "number" else str(uuid.UUID(int=rng.getrandbits(128), version=4))
    needle = f"One of the special magic {kind}s for {key} is: {value}."
    if rng.random() < 0.4:
        parts, glue = [NOISE] * max(1, length // 24), "\n"
    else:
        parts, glue = [sentence(rng) for _ in range(max(1, length // 14))], " "
    parts.insert(rng.randrange(len(parts) + 1), needle)
    return (f"A special magic {kind} is hidden within the following text. Make sure to memorize it. I will quiz you about the {kind} "
            f"afterwards.\n{glue.join(parts)}\nWhat is the special magic {kind} for {key} mentioned in the provided text? "
            f"The special magic {kind} for {key} mentioned in the provided text is {value}.")


def pairs_document(rng, words):
    """Many short needles and as many questions: dense practice in looking things up."""
    count = rng.randrange(2, 7)
    kind = rng.choice(["number", "uuid"])
    known = {}
    while len(known) < count:
        known[draw_key(rng, words)] = (str(rng.randrange(1_000_000, 10_000_000)) if kind == "number"
                                       else str(uuid.UUID(int=rng.getrandbits(128), version=4)))
    lines = []
    for key, value in known.items():
        lines += [sentence(rng) for _ in range(rng.randrange(3))] + [f"One of the special magic {kind}s for {key} is: {value}."]
    asked = list(known.items())
    rng.shuffle(asked)
    questions = [f"The special magic {kind} for {key} mentioned in the provided text is {value}." for key, value in asked]
    return " ".join(lines) + "\n" + "\n".join(questions)


def arithmetic(rng):
    """A word problem with its worked steps: (question, reasoning, answer)."""
    who, other, thing = *rng.sample(PEOPLE, 2), rng.choice(THINGS)
    a, b, c = rng.randrange(3, 60), rng.randrange(2, 40), rng.randrange(2, 9)
    form = rng.randrange(3)
    if form == 0:
        return (f"{who} has {a} {thing} and gets {b} more from {other}. How many {thing} does {who} have?",
                f"{who} begins with {a} {thing}. {other} gives {b} more. {a} + {b} = {a + b}.", f"{a + b}")
    if form == 1:
        return (f"{who} fills {c} boxes with {b} {thing} each. How many {thing} is that?",
                f"Each box holds {b} {thing}. There are {c} boxes. {c} * {b} = {c * b}.", f"{c * b}")
    return (f"{who} has {a + b} {thing} and {other} takes {b}. How many {thing} are left?",
            f"{who} begins with {a + b} {thing}. {other} takes {b}. {a + b} - {b} = {a}.", f"{a}")


def conversation(rng):
    question, steps, answer = arithmetic(rng)
    return {"messages": [{"role": "user", "content": question},
                         {"role": "assistant", "content": f"Let us think step by step. {steps} The answer is {answer}."}]}


def corpus(rng, words, count):
    for i in range(count):
        # Short documents first: looking up is learned near, then stretched.
        reach = 60 + int(440 * min(1.0, 2 * i / count))
        draw = rng.random()
        if draw < 0.35:
            yield pairs_document(rng, words)
        elif draw < 0.9:
            yield needle_document(rng, words, rng.randrange(40, reach))
        else:
            question, steps, answer = arithmetic(rng)
            yield f"{question} {answer}."


def make_tokenizer(rng, words):
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"\d|[^\d]+"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(vocab_size=1024, special_tokens=special, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    texts = [needle_document(rng, words, 100) for _ in range(1500)] + [pairs_document(rng, words) for _ in range(1500)]
    texts += [" ".join(arithmetic(rng)) + " Let us think step by step. The answer is" for _ in range(1500)]
    tokenizer.train_from_iterator(texts, trainer)
    return json.loads(tokenizer.to_str())


CONFIG = {
    "architectures": ["HypeNetForCausalLM"], "model_type": "hypenet", "vocab_size": 1024, "hidden_size": 128,
    "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "mixer_types": ["lightning-attn", "attn", "lightning-attn", "attn"], "lightning_nh": 4, "lightning_nkv": 4,
    "lightning_head_dim": 32, "lightning_scale": "1/sqrt(d)", "lightning_use_rope": True, "lightning_use_qk_norm": True,
    "lightning_use_output_norm": True, "lightning_use_output_gate": True, "attn_use_rope": False, "attn_use_output_gate": True,
    "attn_logits_scaling": None, "attention_bias": False, "attention_dropout": 0.0, "hidden_act": "silu", "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0, "rope_scaling": None, "max_position_embeddings": 65536, "initializer_range": 0.02,
    "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": [0, 2], "torch_dtype": "bfloat16", "use_cache": True,
}
TEMPLATE = ("{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", nargs=2, metavar=("FILE", "COUNT"))
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    words = json.loads(WORDS.read_text("utf-8"))
    rng = random.Random(args.seed)
    if args.corpus:
        with open(args.corpus[0], "w", encoding="utf-8") as out:
            for text in corpus(rng, words, int(args.corpus[1])):
                out.write(json.dumps({"text": text}) + "\n")
        return
    model = HERE / "model"
    dump = lambda path, value: path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")
    dump(model / "tokenizer.json", make_tokenizer(rng, words))
    dump(model / "tokenizer_config.json", {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
                                           "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE})
    dump(model / "generation_config.json", {"eos_token_id": [0, 2]})
    dump(model / "config.json", CONFIG)
    with open(HERE / "cot.jsonl", "w", encoding="utf-8") as out:
        for _ in range(400):
            out.write(json.dumps(conversation(rng)) + "\n")
    # Other sentences than those of cot.jsonl and of any corpus with another seed.
    haystack = random.Random(args.seed + 1)
    (HERE / "haystack.txt").write_text(" ".join(sentence(haystack) for _ in range(1500)) + "\n", "utf-8")


if __name__ == "__main__":
    main()
