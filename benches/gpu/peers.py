"""The ops of `benches/gpu` in PyTorch, on the same shapes, for comparison in the same minutes on the same GPU.

    python3 benches/gpu/peers.py [--quick] [--group NAME] [--only TEXT] [--json FILE]
    python3 benches/gpu/peers.py --compare OURS.jsonl PEERS.jsonl

Products go through torch.mm (cuBLASLt or cuBLAS, as PyTorch chooses), attention through scaled_dot_product_attention with
the Flash backend forced (and once more by cuDNN at 4,096 tokens), rows and losses through torch.compile, AdamW is the fused one. Inputs are random, calls take turns among
sets of tensors that are larger together than any cache, rows of calls are timed by CUDA events, medians count. Needs PyTorch.
One JSON object per line goes into the file; `note` says where a peer does not do quite the same.
"""
import argparse
import functools
import json
import statistics
import sys

ROTATED_BYTES = 384 << 20
LEAST_SETS = 2
TOKENS, HIDDEN, INTERMEDIATE, VOCAB = 16384, 4096, 14336, 32000
PARAMETERS = 1 << 28
EPS = 1e-5
# Behind the name of a case whose peer is another one.
CUDNN = " (cuDNN)"


class Case:
    """One op: `make` returns tensors, which may be rotated, and a call of them."""

    def __init__(self, group, name, make, note=None):
        self.group, self.name, self.make, self.note = group, name, make, note


def randn(*shape, dtype=None):
    return torch.randn(*shape, device="cuda", dtype=dtype or torch.bfloat16)


def f32(*shape):
    return randn(*shape, dtype=torch.float32)


def products():
    layers = [(4096, 4096, 4096, True), (8192, 8192, 8192, True), (16384, 4096, 4096, True),
              (16384, 4096, 28672, False), (16384, 14336, 4096, False)]
    for tokens, inputs, outputs, backward in layers:
        shape = f"{tokens}x{inputs}->{outputs}"

        def forward(t=tokens, i=inputs, o=outputs):
            x, w, y = randn(t, i), randn(o, i), randn(t, o)
            return [x, w, y], lambda: torch.mm(x, w.t(), out=y)

        def input_gradient(t=tokens, i=inputs, o=outputs):
            dy, w, dx = randn(t, o), randn(o, i), randn(t, i)
            return [dy, w, dx], lambda: torch.mm(dy, w, out=dx)

        def weight_gradient(t=tokens, i=inputs, o=outputs):
            dy, x, dw = randn(t, o), randn(t, i), randn(o, i)
            return [dy, x, dw], lambda: torch.mm(dy.t(), x, out=dw)

        def weight_gradient_f32(t=tokens, i=inputs, o=outputs):
            dy, x, dw = randn(t, o), randn(t, i), torch.zeros(o, i, device="cuda")
            add = lambda: torch.addmm(dw, dy.t(), x, out_dtype=torch.float32, out=dw)
            replace = lambda: torch.mm(dy.t(), x, out_dtype=torch.float32, out=dw)
            try:
                add()
            except RuntimeError:
                return [dy, x, dw], replace
            return [dy, x, dw], add

        yield Case("gemm", f"gemm forward {shape}", forward)
        if backward:
            yield Case("gemm", f"gemm input-gradient {shape}", input_gradient)
            yield Case("gemm", f"gemm weight-gradient {shape}", weight_gradient,
                       "replaces a bf16 result; ours adds to an f32 one")
            yield Case("gemm", f"gemm weight-gradient-f32 {shape}", weight_gradient_f32,
                       "adds to an f32 result where this PyTorch can, else replaces one")

    def add():
        x, w, residual, y = randn(TOKENS, HIDDEN), randn(HIDDEN, HIDDEN), randn(TOKENS, HIDDEN), randn(TOKENS, HIDDEN)
        return [x, w, residual, y], lambda: torch.addmm(residual, x, w.t(), out=y)

    yield Case("gemm", "gemm add 16384x4096->4096", add)


def attention():
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    def sdpa(q, k, v, backend=SDPBackend.FLASH_ATTENTION):
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])

    for heads, kv_heads, width in [(16, 16, 128), (32, 32, 64), (32, 8, 128)]:
        for length in [1024, 2048, 4096, 8192, 16384]:
            if heads != kv_heads and length != 4096:
                continue
            shape = f"d{width} h{heads}/{kv_heads} {length}"

            def tensors(h=heads, g=kv_heads, d=width, s=length):
                # Tokens first in memory, as layers leave them.
                make = lambda n: randn(TOKENS // s, s, n, d).transpose(1, 2)
                return make(h), make(g), make(g)

            def forward(tensors=tensors, **backend):
                q, k, v = tensors()
                return [q, k, v], lambda: sdpa(q, k, v, **backend)

            def backward(tensors=tensors, **backend):
                q, k, v = (x.requires_grad_() for x in tensors())
                out = sdpa(q, k, v, **backend)
                dout = torch.randn_like(out)
                return [q, k, v, dout], lambda: torch.autograd.grad(out, (q, k, v), dout, retain_graph=True)

            yield Case("attention", f"attention forward {shape}", forward)
            yield Case("attention", f"attention backward {shape}", backward)
            if length == 4096:
                for name, make in [("forward", forward), ("backward", backward)]:
                    make = functools.partial(make, backend=SDPBackend.CUDNN_ATTENTION)
                    yield Case("attention", f"attention {name} {shape}{CUDNN}", make)


def norms():
    from torch.nn.functional import rms_norm
    forward = lambda x, w: rms_norm(x, (HIDDEN,), w, EPS)

    def add_forward(x, residual, w):
        total = x + residual
        return total, rms_norm(total, (HIDDEN,), w, EPS)

    def backward(dy, x, w, rstd, old=None):
        dy, x, w = dy.float(), x.float(), w.float()
        normed = x * rstd[:, None]
        weighted = dy * w
        dx = rstd[:, None] * (weighted - normed * (weighted * normed).mean(1, keepdim=True))
        return (dx if old is None else dx + old.float()).bfloat16(), (dy * normed).sum(0)

    def make_forward(run):
        x, w = randn(TOKENS, HIDDEN), randn(HIDDEN)
        return [x], lambda: run(x, w)

    def make_add(run):
        x, residual, w = randn(TOKENS, HIDDEN), randn(TOKENS, HIDDEN), randn(HIDDEN)
        return [x, residual], lambda: run(x, residual, w)

    def make_backward(run, add=False):
        dy, x, w = randn(TOKENS, HIDDEN), randn(TOKENS, HIDDEN), randn(HIDDEN)
        rstd = torch.ones(TOKENS, device="cuda")
        old = [randn(TOKENS, HIDDEN)] if add else []
        return [dy, x], lambda: run(dy, x, w, rstd, *old)

    compiled = compiler()
    yield Case("norms", "rms_norm forward 16384x4096", lambda: make_forward(compiled(forward)))
    yield Case("norms", "rms_norm add-forward 16384x4096", lambda: make_add(compiled(add_forward)))
    yield Case("norms", "rms_norm backward 16384x4096", lambda: make_backward(compiled(backward)))
    yield Case("norms", "rms_norm backward-add 16384x4096", lambda: make_backward(compiled(backward), True))


def activations():
    from torch.nn.functional import silu

    def swiglu(x):
        gate, up = x.chunk(2, dim=1)
        return silu(gate) * up

    def swiglu_backward(x, dy):
        gate, up = x.float().chunk(2, dim=1)
        dy, s = dy.float(), torch.sigmoid(gate)
        return torch.cat([dy * up * s * (1 + gate * (1 - s)), dy * gate * s], dim=1).bfloat16()

    def rope(x, cos, sin):
        first, second = x.float().chunk(2, dim=-1)
        x.copy_(torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1))

    def make_swiglu(run):
        x = randn(TOKENS, 2 * INTERMEDIATE)
        return [x], lambda: run(x)

    def make_swiglu_backward(run):
        x, dy = randn(TOKENS, 2 * INTERMEDIATE), randn(TOKENS, INTERMEDIATE)
        return [x, dy], lambda: run(x, dy)

    def make_rope(run):
        x = randn(TOKENS, 32, 128)
        angles = torch.outer(torch.arange(TOKENS) % 4096, 5e5 ** (-torch.arange(0, 128, 2) / 128))
        cos, sin = angles.cos().cuda()[:, None], angles.sin().cuda()[:, None]
        return [x], lambda: run(x, cos, sin)

    compiled = compiler()
    yield Case("activations", "swiglu forward 16384x14336", lambda: make_swiglu(compiled(swiglu)))
    yield Case("activations", "swiglu backward 16384x14336", lambda: make_swiglu_backward(compiled(swiglu_backward)))
    yield Case("activations", "rope forward 16384x32x128", lambda: make_rope(compiled(rope)))


def ends():
    from torch.nn.functional import cross_entropy, embedding, linear

    def rows(logits, labels, scale):
        lse = torch.logsumexp(logits, 1)
        losses = lse - logits.gather(1, labels[:, None])[:, 0]
        is_label = torch.arange(logits.shape[1], device=logits.device)[None] == labels[:, None]
        return losses, ((torch.exp(logits - lse[:, None]) - is_label.float()) * scale).bfloat16()

    def make_embedding():
        ids, table = torch.randint(VOCAB, (TOKENS,), device="cuda"), randn(VOCAB, HIDDEN)
        return [table], lambda: embedding(ids, table)

    def make_embedding_backward():
        ids, dy = torch.randint(VOCAB, (TOKENS,), device="cuda"), randn(TOKENS, HIDDEN)
        return [dy, randn(VOCAB, HIDDEN)], lambda: torch.ops.aten.embedding_dense_backward(dy, ids, VOCAB, -1, False)

    def make_rows(run):
        logits, labels = f32(4096, 128256), torch.randint(128256, (4096,), device="cuda")
        return [logits], lambda: run(logits, labels, 1 / 4096)

    def make_loss():
        x, w = randn(TOKENS, HIDDEN).requires_grad_(), randn(VOCAB, HIDDEN).requires_grad_()
        labels = torch.randint(VOCAB, (TOKENS,), device="cuda")

        def call():
            loss = cross_entropy(linear(x, w).float(), labels)
            return torch.autograd.grad(loss, (x, w))

        return [x, w], call

    yield Case("ends", "embedding forward 16384x4096 of 32000", make_embedding)
    yield Case("ends", "embedding backward 16384x4096 of 32000", make_embedding_backward, "clears and fills a bf16 table")
    yield Case("ends", "cross_entropy rows 4096x128256", lambda: make_rows(compiler()(rows)))
    yield Case("ends", "cross_entropy with products 16384x4096x32000", make_loss, "eager, all logits at once")


def updates():
    def make_cast(source, target):
        def make():
            x, y = randn(TOKENS, HIDDEN, dtype=source), randn(TOKENS, HIDDEN, dtype=target)
            return [x, y], lambda: y.copy_(x)
        return make

    def on(dtype, count, call):
        def make():
            tensors = [randn(TOKENS, HIDDEN, dtype=dtype) for _ in range(count)]
            return tensors, lambda: call(*tensors)
        return make

    def make_norm():
        x = f32(PARAMETERS)
        return [x], lambda: torch.linalg.vector_norm(x)

    def make_adamw():
        parameter, weights = f32(PARAMETERS).requires_grad_(), randn(PARAMETERS)
        parameter.grad = f32(PARAMETERS)
        optimizer = torch.optim.AdamW([parameter], lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

        def call():
            optimizer.step()
            weights.copy_(parameter.detach())

        return [parameter] * 4, call

    half, single = torch.bfloat16, torch.float32
    for source, target in [(single, half), (half, single), (half, half)]:
        name = " ".join(["cast", "->".join("f32" if t == single else "bf16" for t in (source, target)), "16384x4096"])
        yield Case("updates", name, make_cast(source, target))
    yield Case("updates", "add_assign bf16 16384x4096", on(half, 2, lambda x, y: y.add_(x)))
    yield Case("updates", "fill bf16 16384x4096", on(half, 1, lambda y: y.fill_(1.0)))
    yield Case("updates", "column_sum bf16 16384x4096", on(half, 1, lambda x: x.sum(0, dtype=single)))
    yield Case("updates", "sum f32 16384x4096", on(single, 1, lambda x: x.sum()))
    yield Case("updates", "combine sum of 2 f32 16384x4096", on(single, 2, lambda x, y: y.add_(x)))
    yield Case("updates", "philox normal f32 16384x4096", on(single, 1, lambda x: x.normal_()))
    yield Case("updates", "grad_norm sum_of_squares 2^28", make_norm, "the whole norm")
    yield Case("updates", "adamw master f32 moments f32 2^28", make_adamw, "fused AdamW, then the bf16 copy of the weights")


def compiler():
    """torch.compile; each function once, however many sets of tensors call it."""
    known = {}

    def compiled(function):
        if function not in known:
            known[function] = torch.compile(function, dynamic=False)
        return known[function]

    return compiled


def bytes_of(tensors):
    return sum(t.numel() * t.element_size() for t in tensors)


def measure(case, row_s, rows):
    tensors, call = case.make()
    calls = [call]
    while bytes_of(tensors) * len(calls) < ROTATED_BYTES or len(calls) < LEAST_SETS:
        calls.append(case.make()[1])
    turn = 0

    def row(count):
        nonlocal turn
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(count):
            calls[turn % len(calls)]()
            turn += 1
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    row(3)
    count = 4
    while (taken := row(count)) < row_s / 8 and count < 4096:
        count *= 2
    count = min(max(int(row_s / (taken / count)), 1), 4096)
    seconds = sorted(row(count) / count for _ in range(rows))
    return dict(ms=1e3 * statistics.median(seconds), fastest_ms=1e3 * seconds[0], slowest_ms=1e3 * seconds[-1],
                calls_per_row=count, sets=len(calls))


def copy_rate(row_s, rows):
    def make():
        x, y = f32(1 << 28), f32(1 << 28)
        return [x, y], lambda: y.copy_(x)
    return 2 * (1 << 30) / measure(Case("", "", make), row_s, rows)["ms"] * 1e3


def run(arguments):
    row_s, rows = (0.008, 5) if arguments.quick else (0.025, 9)
    torch.manual_seed(0)
    out = open(arguments.json, "w") if arguments.json else None

    def line(**fields):
        if out:
            print(json.dumps(fields), file=out, flush=True)

    copy = copy_rate(row_s, rows)
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}: copies {copy / 1e9:.0f} GB/s", flush=True)
    line(peer="torch " + torch.__version__, cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version(),
         gpu=torch.cuda.get_device_name(), copy_byte_per_s=copy)
    # Those that are compiled come last: they take longest to begin.
    for group in [products, attention, updates, norms, activations, ends]:
        for case in group():
            if arguments.group not in (None, case.group) or arguments.only not in case.name:
                continue
            try:
                result = measure(case, row_s, rows)
                print(f"{case.name:<56} {result['ms']:10.4f} ms  {case.note or ''}", flush=True)
                line(op=case.name, note=case.note, **result)
            except Exception as error:  # the others go on
                message = f"{type(error).__name__}: {error}".splitlines()[0][:300]
                print(f"{case.name:<56} FAILED: {message}", flush=True)
                line(op=case.name, error=message)
            torch.cuda.empty_cache()


def read(path):
    """Objects by the name of their op. A last line may be cut off, where a time limit came."""
    ops = {}
    for text in open(path):
        try:
            record = json.loads(text)
        except ValueError:
            continue
        if "ms" in record:
            ops[record["op"]] = record
    return ops


def compare(ours_path, peers_path):
    """Speed of ours over the peer's, op by op."""
    peers = read(peers_path)
    print(f"{'op':<56} {'ours ms':>10} {'peer ms':>10} {'speed':>7} {'x floor':>8}")
    for name, ours in read(ours_path).items():
        # A weight's gradient adds to f32, which not every PyTorch can.
        nearest = peers.get(name.replace("weight-gradient ", "weight-gradient-f32 "), peers.get(name))
        for label, peer in [(name, nearest), (name + CUDNN, peers.get(name + CUDNN))]:
            if peer:
                ratio = peer["ms"] / ours["ms"]
                print(f"{label:<56} {ours['ms']:10.4f} {peer['ms']:10.4f} {ratio:7.2f} {ours['over_floor']:8.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--group")
    parser.add_argument("--only", default="")
    parser.add_argument("--json")
    parser.add_argument("--compare", nargs=2, metavar=("OURS", "PEERS"))
    arguments = parser.parse_args()
    if arguments.compare:
        return compare(*arguments.compare)
    global torch
    try:
        import torch
    except ImportError:
        sys.exit("no PyTorch here")
    if not torch.cuda.is_available():
        sys.exit("PyTorch sees no GPU here")
    run(arguments)


main()
