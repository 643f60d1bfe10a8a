#!/usr/bin/env python3
"""Makes everything in examples/amnesia that is not trained: tokenizer, configuration, haystack, fine-tuning data and held-out
problems; and, on request, a corpus of the base model. Each is a function of its seed alone.

    python3 make.py                                      model/*.json, cot.jsonl, problems.jsonl, haystack.txt  (pip install tokenizers)
    python3 make.py --corpus FILE COUNT --lengths A B    COUNT documents of about A to B tokens as JSON lines {"text": ...}

The base model's corpus is sentences of a small grammar, needles and questions about them, and sums. It never holds a word problem
or a chat: worked word problems are what fine-tuning adds.
"""
import argparse
import json
import math
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
MANNERS = ["quietly", "slowly", "early", "again", "at noon", "before dark", "in the rain", "after lunch", "with care"]


def sentence(rng):
    form, how = rng.randrange(6), rng.choice(MANNERS)
    if form == 0:
        return f"{rng.choice(PEOPLE)} {rng.choice(VERBS)} the {rng.choice(THINGS)} near the {rng.choice(PLACES)} {how}."
    if form == 1:
        return f"The {rng.choice(PLACES)} was far from the {rng.choice(PLACES)}, and {rng.choice(PEOPLE)} knew it."
    if form == 2:
        return f"In the {rng.choice(PLACES)} {rng.choice(PEOPLE)} {rng.choice(VERBS)} {rng.randrange(2, 90)} {rng.choice(THINGS)} {how}."
    if form == 3:
        return f"\"{rng.choice(PEOPLE)} {rng.choice(VERBS)} it {how},\" said {rng.choice(PEOPLE)}."
    if form == 4:
        return f"Was it {rng.choice(PEOPLE)} who {rng.choice(VERBS)} the {rng.choice(THINGS)}?"
    return f"{rng.choice(PEOPLE)} and {rng.choice(PEOPLE)} {rng.choice(VERBS)} what they had left in the {rng.choice(PLACES)}."


def sum_line(rng):
    """One sum; the numbers are those that word problems come to."""
    form = rng.randrange(3)
    if form == 0:
        a, b = rng.randrange(2, 90), rng.randrange(2, 60)
        return f"{a} + {b} = {a + b}."
    if form == 1:
        a, b = rng.randrange(2, 90), rng.randrange(2, 60)
        return f"{a + b} - {b} = {a}."
    a, b = rng.randrange(2, 10), rng.randrange(2, 13)
    return f"{a} * {b} = {a * b}."


def draw_key(rng, words):
    return f"{rng.choice(words['adjectives'])}-{rng.choice(words['nouns'])}"


def draw_value(rng, kind):
    if kind == "number":
        return str(rng.randrange(1_000_000, 10_000_000))
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def log_uniform(rng, low, high):
    return int(math.exp(rng.uniform(math.log(low), math.log(high))))


def needle_document(rng, words, length):
    """A haystack of about `length` tokens, one needle or four, the question, the answer."""
    kind = rng.choice(["number", "number", "uuid"])
    known = {draw_key(rng, words): draw_value(rng, kind) for _ in range(rng.choice([1, 1, 1, 4]))}
    if rng.random() < 0.35:
        parts, glue = [NOISE] * max(1, length // 24), "\n"
    else:
        parts, glue = [sentence(rng) for _ in range(max(1, length // 14))], " "
    for key, value in known.items():
        parts.insert(rng.randrange(len(parts) + 1), f"One of the special magic {kind}s for {key} is: {value}.")
    key, value = rng.choice(list(known.items()))
    return (f"A special magic {kind} is hidden within the following text. Make sure to memorize it. I will quiz you about the {kind} "
            f"afterwards.\n{glue.join(parts)}\nWhat is the special magic {kind} for {key} mentioned in the provided text? "
            f"The special magic {kind} for {key} mentioned in the provided text is {value}.")


def pairs_document(rng, words, length):
    """Short needles and as many questions: dense practice in looking things up."""
    kind = rng.choice(["number", "uuid"])
    each = 60 if kind == "number" else 105  # tokens of a needle and its question
    known = {draw_key(rng, words): draw_value(rng, kind) for _ in range(max(2, min(16, length // each)))}
    lines = []
    for key, value in known.items():
        lines += [sentence(rng) for _ in range(rng.randrange(3))] + [f"One of the special magic {kind}s for {key} is: {value}."]
    asked = list(known.items())
    rng.shuffle(asked)
    questions = [f"The special magic {kind} for {key} mentioned in the provided text is {value}." for key, value in asked]
    return " ".join(lines) + "\n" + "\n".join(questions)


def sums_document(rng):
    return " ".join(sum_line(rng) if rng.random() < 0.85 else sentence(rng) for _ in range(rng.randrange(8, 30)))


def corpus(rng, words, count, low, high):
    for _ in range(count):
        draw, length = rng.random(), log_uniform(rng, low, high)
        if draw < 0.35:
            yield pairs_document(rng, words, min(length, 700))
        elif draw < 0.85:
            yield needle_document(rng, words, length)
        else:
            yield sums_document(rng)


def word_problem(rng):
    """(question, steps, answer): two or three steps, each on what stands a few dozen tokens back."""
    who, other = rng.sample(PEOPLE, 2)
    thing, place = rng.choice(THINGS), rng.choice(PLACES)
    a, b = rng.randrange(3, 50), rng.randrange(2, 30)
    c, d = rng.randrange(2, 10), rng.randrange(2, 10)
    form = rng.randrange(4)
    if form == 0:
        left = a + c * d
        return (f"{who} has {a} {thing}. In the {place} {who} finds {c} boxes with {d} {thing} each. How many {thing} does {who} have now?",
                f"The boxes hold {c} * {d} = {c * d} {thing}. {who} has {a} + {c * d} = {left} {thing}.", left)
    if form == 1:
        have, left = a + b, a + b - c
        return (f"{who} has {a} {thing} and gets {b} more from {other}. Then {who} loses {c} in the {place}. How many {thing} are left?",
                f"{who} has {a} + {b} = {have} {thing}. After the loss there are {have} - {c} = {left} {thing}.", left)
    if form == 2:
        sold = c * d
        return (f"{other} has {sold + a} {thing} in the {place}. {who} buys {c} bags of {d} {thing} from {other}. How many {thing} does {other} keep?",
                f"{who} buys {c} * {d} = {sold} {thing}. {other} keeps {sold + a} - {sold} = {a} {thing}.", a)
    first, second = a + b, a + a + b
    return (f"{who} counts {a} {thing} on Monday and {b} more than that on Tuesday. How many {thing} does {who} count in all?",
            f"On Tuesday {who} counts {a} + {b} = {first} {thing}. In all {who} counts {a} + {first} = {second} {thing}.", second)


def conversation(problem):
    question, steps, answer = problem
    return {"messages": [{"role": "user", "content": question},
                         {"role": "assistant", "content": f"Let us think step by step. {steps} The answer is {answer}."}]}


def make_tokenizer(rng, words):
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"\d|[^\d]+"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=CONFIG["vocab_size"], special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
                                  show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    texts = [needle_document(rng, words, 100) for _ in range(1500)] + [pairs_document(rng, words, 300) for _ in range(1500)]
    texts += [" ".join(map(str, word_problem(rng))) + " Let us think step by step. The answer is" for _ in range(1500)]
    tokenizer.train_from_iterator(texts, trainer)
    return json.loads(tokenizer.to_str())


CONFIG = {
    "architectures": ["HypeNetForCausalLM"], "model_type": "hypenet", "vocab_size": 1024, "hidden_size": 192,
    "intermediate_size": 512, "num_hidden_layers": 8, "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 64,
    "mixer_types": ["attn" if layer in (2, 5) else "lightning-attn" for layer in range(8)], "lightning_nh": 3, "lightning_nkv": 3,
    "lightning_head_dim": 64, "lightning_scale": "1/sqrt(d)", "lightning_use_rope": True, "lightning_use_qk_norm": True,
    "lightning_use_output_norm": True, "lightning_use_output_gate": True, "attn_use_rope": False, "attn_use_output_gate": True,
    "attn_logits_scaling": None, "attention_bias": False, "attention_dropout": 0.0, "hidden_act": "silu", "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0, "rope_scaling": None, "max_position_embeddings": 65536, "initializer_range": 0.02,
    "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": [0, 2], "torch_dtype": "bfloat16", "use_cache": True,
}
TEMPLATE = ("{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", nargs=2, metavar=("FILE", "COUNT"))
    parser.add_argument("--lengths", nargs=2, type=int, default=[40, 450], metavar=("A", "B"))
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    words = json.loads(WORDS.read_text("utf-8"))
    rng = random.Random(args.seed)
    if args.corpus:
        texts = corpus(rng, words, int(args.corpus[1]), *args.lengths)
        write_lines(pathlib.Path(args.corpus[0]), ({"text": text} for text in texts))
        return
    model = HERE / "model"
    model.mkdir(exist_ok=True)
    dump = lambda path, value: path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")
    dump(model / "tokenizer.json", make_tokenizer(rng, words))
    dump(model / "tokenizer_config.json", {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
                                           "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE})
    dump(model / "generation_config.json", {"eos_token_id": [0, 2]})
    dump(model / "config.json", CONFIG)
    # Two sets that share no question, and sentences that no corpus with another seed has.
    problems = list({problem[0]: problem for problem in (word_problem(rng) for _ in range(9000))}.values())
    write_lines(HERE / "cot.jsonl", map(conversation, problems[:3000]))
    write_lines(HERE / "problems.jsonl", ({"prompt": p[0], "answer": f"The answer is {p[2]}."} for p in problems[-500:]))
    haystack = random.Random(args.seed + 1)
    (HERE / "haystack.txt").write_text(" ".join(sentence(haystack) for _ in range(1500)) + "\n", "utf-8")


if __name__ == "__main__":
    main()
