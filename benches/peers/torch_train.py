"""A Llama trained in PyTorch as `tisserand train` trains it, for comparison of speed and of loss curves.

    python3 benches/peers/torch_train.py --tokens PREFIX --steps 300 [--init FOLDER | --config FILE] [options]

Same model, data, order of the data, learning rates and optimizer as a run of tisserand with one source, data.document_mask = false,
schedule cosine and the default groups; with --init also the same initial weights: those of a Hugging Face folder, such as
`weights/` of a run. Runs the usual way of PyTorch: f32 parameters under bf16 autocast, torch.compile, Flash attention through
scaled_dot_product_attention, fused AdamW. What differs from ours: the residual stream and the gradients of weights are rounded in
other places, and the loss is computed from all logits of a micro-batch at once. Blocks are compiled one by one (all have one
code), which takes seconds where the whole model takes a minute; --whole compiles all of it.

Needs PyTorch with a GPU (--device cpu to try it out). Writes one JSON object per logged step, then one of the whole run.
"""
import argparse
import contextlib
import json
import math
import statistics
import struct
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

MASK = (1 << 64) - 1


def mix(state):
    """SplitMix64's finalizer over the next state, as in runtime/src/data/permutation.rs."""
    z = (state + 0x9E3779B97F4A7C15) & MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


class Permutation:
    """The shuffle of a source's samples."""

    def __init__(self, length, key):
        state = 0
        for word in key:
            state = mix(state ^ word)
        self.keys = []
        for _ in range(8):
            state = (state + 0x9E3779B97F4A7C15) & MASK
            self.keys.append(mix(state))
        self.length = length
        self.half_bits = max(1, ((length - 1).bit_length() + 1) // 2)

    def network(self, value):
        left, right = value >> self.half_bits, value & ((1 << self.half_bits) - 1)
        for key in self.keys:
            left, right = right, left ^ (mix(right ^ key) >> (64 - self.half_bits))
        return left << self.half_bits | right

    def apply(self, index):
        value = self.network(index)
        while value >= self.length:
            value = self.network(value)
        return value


class Samples:
    """Samples of seq_len + 1 tokens of a token file, in the order of a run."""

    def __init__(self, prefix, seq_len, seed):
        with open(prefix + ".idx", "rb") as index:
            head = index.read(34)
        kinds = {1: torch.uint8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 8: torch.uint16}
        with open(prefix + ".bin", "rb") as tokens:
            self.tokens = torch.frombuffer(bytearray(tokens.read()), dtype=kinds[head[17]]).to(torch.int64)
        self.seq_len, self.seed = seq_len, seed
        self.length = (len(self.tokens) - 1) // seq_len
        self.orders = {}

    def read(self, index):
        epoch = index // self.length
        order = self.orders.setdefault(epoch, Permutation(self.length, [self.seed, 0, epoch]))
        start = order.apply(index % self.length) * self.seq_len
        return self.tokens[start:start + self.seq_len + 1]


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.kv_heads, self.width = c["num_attention_heads"], c["num_key_value_heads"], head_dim(c)
        hidden, inside, eps = c["hidden_size"], c["intermediate_size"], c["rms_norm_eps"]
        self.norm1, self.norm2 = nn.RMSNorm(hidden, eps=eps), nn.RMSNorm(hidden, eps=eps)
        self.qkv = nn.Linear(hidden, (self.heads + 2 * self.kv_heads) * self.width, bias=False)
        self.out = nn.Linear(self.heads * self.width, hidden, bias=False)
        self.gate_up, self.down = nn.Linear(hidden, 2 * inside, bias=False), nn.Linear(inside, hidden, bias=False)

    def forward(self, x, cos, sin):
        batch, seq, _ = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, seq, self.heads + 2 * self.kv_heads, self.width).transpose(1, 2)
        q, k, v = qkv.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.heads != self.kv_heads)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, seq, self.heads * self.width))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


def rotate(x, cos, sin):
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


def head_dim(c):
    return c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]


class Model(nn.Module):
    def __init__(self, c, seq_len, theta):
        super().__init__()
        self.embedding = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.blocks = nn.ModuleList(Block(c) for _ in range(c["num_hidden_layers"]))
        self.norm = nn.RMSNorm(c["hidden_size"], eps=c["rms_norm_eps"])
        self.head = nn.Linear(c["hidden_size"], c["vocab_size"], bias=False)
        frequencies = theta ** (-torch.arange(0, head_dim(c), 2) / head_dim(c))
        angles = torch.outer(torch.arange(seq_len), frequencies)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, tokens, labels):
        # The residual stream is bf16, as ours is.
        x = self.embedding(tokens).to(self.stream)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return loss_of(self.head, self.norm(x), labels)


def loss_of(head, x, labels):
    return F.cross_entropy(head(x).float().flatten(0, 1), labels.flatten())


def initialize(model, c, seed):
    """Normal weights as tisserand's defaults have them, though not the same numbers."""
    torch.manual_seed(seed)
    scaled = 0.02 / math.sqrt(2 * c["num_hidden_layers"])
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            residual = name.endswith(("out.weight", "down.weight"))
            nn.init.normal_(parameter, std=scaled if residual else 0.02)


def read_safetensors(path):
    kinds = {"F32": torch.float32, "BF16": torch.bfloat16}
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            tensors[name] = data[begin:end].clone().view(kinds[entry["dtype"]]).view(entry["shape"]).float()
    return tensors


def load(model, folder):
    """The weights of a Hugging Face folder with one file."""
    t = read_safetensors(folder + "/model.safetensors")
    head = t.get("lm_head.weight", t["model.embed_tokens.weight"])
    pairs = [(model.embedding.weight, t["model.embed_tokens.weight"]), (model.norm.weight, t["model.norm.weight"]),
             (model.head.weight, head)]
    for i, block in enumerate(model.blocks):
        part = lambda name: t[f"model.layers.{i}.{name}.weight"]
        pairs += [
            (block.norm1.weight, part("input_layernorm")), (block.norm2.weight, part("post_attention_layernorm")),
            (block.qkv.weight, torch.cat([part(f"self_attn.{p}_proj") for p in "qkv"])),
            (block.out.weight, part("self_attn.o_proj")),
            (block.gate_up.weight, torch.cat([part("mlp.gate_proj"), part("mlp.up_proj")])),
            (block.down.weight, part("mlp.down_proj")),
        ]
    with torch.no_grad():
        for parameter, values in pairs:
            parameter.copy_(values)


def learning_rate(a, update):
    """Of update 1, 2, ...: docs/run-file.md, cosine."""
    if update <= a.warmup_steps:
        return a.lr * update / a.warmup_steps
    progress = (update - a.warmup_steps) / max(1, a.total_steps - a.warmup_steps)
    return a.lr * (a.min_lr_ratio + (1 - a.min_lr_ratio) * (1 + math.cos(math.pi * progress)) / 2)


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", required=True, help="prefix of a .bin and an .idx file")
    parser.add_argument("--init", help="Hugging Face folder: model and initial weights")
    parser.add_argument("--config", help="a Hugging Face config.json: the model, with weights of its own")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--total-steps", type=int, help="of the learning rate's shape; default: as --steps")
    parser.add_argument("--seq-len", type=int, default=1024)
    parser.add_argument("--global-batch", type=int, default=32)
    parser.add_argument("--micro-batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=6e-4)
    parser.add_argument("--warmup-steps", type=int, default=20)
    parser.add_argument("--min-lr-ratio", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=1234)
    parser.add_argument("--log-every", type=int, default=10)
    parser.add_argument("--peak-tflop-per-s", type=float, default=989.4)
    parser.add_argument("--whole", action="store_true", help="compile the model as one")
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    arguments.total_steps = arguments.total_steps or arguments.steps
    if not arguments.init and not arguments.config:
        parser.error("one of --init and --config is needed")
    return arguments


def prepare(a):
    with open(a.init + "/config.json" if a.init else a.config) as file:
        c = json.load(file)
    theta = c.get("rope_theta") or c.get("rope_parameters", {}).get("rope_theta", 10000.0)
    # Made where it trains: random numbers for a billion weights take a CPU a quarter of a minute.
    with torch.device(a.device):
        model = Model(c, a.seq_len, theta)
    if a.init:
        load(model, a.init)
    else:
        initialize(model, c, a.seed)
    model.stream = torch.bfloat16 if a.device == "cuda" else torch.float32
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [dict(params=matrices, weight_decay=0.1), dict(params=vectors, weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=a.lr, betas=(0.9, 0.95), eps=1e-8, fused=a.device == "cuda")
    if not a.eager and not a.whole:
        global loss_of
        loss_of = torch.compile(loss_of)
        for block in model.blocks:
            block.compile()
    run = torch.compile(model) if a.whole and not a.eager else model
    return c, model, run, optimizer


def main():
    a = options()
    if a.device == "cuda" and not torch.cuda.is_available():
        sys.exit("PyTorch sees no GPU here")
    torch.set_float32_matmul_precision("high")
    c, model, run, optimizer = prepare(a)
    samples = Samples(a.tokens, a.seq_len, a.seed)
    count = sum(p.numel() for p in model.parameters())
    flops_per_token = 6 * count + 12 * c["num_hidden_layers"] * c["hidden_size"] * a.seq_len
    out = open(a.json, "w") if a.json else None
    cast = torch.autocast("cuda", torch.bfloat16) if a.device == "cuda" else contextlib.nullcontext()
    synchronize = torch.cuda.synchronize if a.device == "cuda" else lambda: None

    def train(step):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(a, step + 1)
        first, total = step * a.global_batch, torch.zeros((), device=a.device)
        for start in range(first, first + a.global_batch, a.micro_batch):
            batch = torch.stack([samples.read(i) for i in range(start, start + a.micro_batch)])
            batch = batch.pin_memory().to(a.device, non_blocking=True) if a.device == "cuda" else batch
            with cast:
                loss = run(batch[:, :-1], batch[:, 1:]) * (a.micro_batch / a.global_batch)
            loss.backward()
            total += loss.detach()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total

    rates, losses, since, begun = [], [], 0, time.perf_counter()
    for step in range(a.steps):
        losses.append(train(step))
        since += 1
        if (step + 1) % a.log_every == 0 or step + 1 == a.steps:
            synchronize()
            now = time.perf_counter()
            rate = since * a.global_batch * a.seq_len / (now - begun)
            rates.append(rate)
            print(f"step {step + 1}: loss {float(losses[-1]):.4f}, {rate:.0f} tokens/s", flush=True)
            if out:
                record = dict(type="step", step=step + 1, loss=float(losses[-1]), tokens_per_s=rate)
                print(json.dumps(record), file=out, flush=True)
            since, begun = 0, time.perf_counter()
    # The first stretch has the compiler in it.
    rate = statistics.median(rates[1:] or rates)
    result = dict(type="run", peer="torch " + torch.__version__, compiled=not a.eager, parameters=count,
                  tokens_per_s=rate, mfu=rate * flops_per_token / a.peak_tflop_per_s / 1e12,
                  losses=[float(loss) for loss in losses])
    if a.device == "cuda":
        result["memory_bytes"] = torch.cuda.max_memory_allocated()
    if out:
        print(json.dumps(result), file=out, flush=True)
    print(json.dumps({key: value for key, value in result.items() if key != "losses"}))


main()
