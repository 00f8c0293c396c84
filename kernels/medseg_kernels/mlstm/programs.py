"""The Triton programs of the mLSTM cell, called by `triton.py`; names are those of `chunks.py`.

A program of `writing` and `returning` goes from chunk to chunk with a block of a lane's memory, or
of its gradient, and leaves what it finds at each border. All others have one chunk of a lane.
"""

# Capitals mark what a kernel is compiled for; Triton gives its arguments their types.
# ruff: noqa: ANN001, ANN201, ANN202, N803

import triton
import triton.language as tl

from medseg_kernels.mlstm.reference import EPSILON, MOST

_EPSILON, _MOST = tl.constexpr(EPSILON), tl.constexpr(MOST)


@triton.jit
def gates(
    input_gate,  # (b, h, n)
    forget_gate,  # (b, h, n)
    forgotten,  # (b, lane, n), written
    totals,  # (b, lane, chunks), written
    peaks,  # (b, lane, chunks), written
    heads,
    ahead,
    lanes,
    n,
    chunks,
    CHUNK: tl.constexpr,
):
    """The forgetting of each chunk up to each of its tokens, and its largest exponent."""
    chunk, place, of_head, is_back, token, there = _chunk(heads, ahead, lanes, n, CHUNK)
    gate = tl.load(forget_gate + of_head * n + token, there, other=0.0).to(tl.float32)
    step = tl.minimum(gate, 0.0) - tl.log(1.0 + tl.exp(-tl.abs(gate)))
    step = tl.where(there, step, 0.0)
    up_to = tl.where(is_back, tl.cumsum(step, 0, reverse=True), tl.cumsum(step, 0))
    entered = tl.load(input_gate + of_head * n + token, there, other=-float("inf")).to(tl.float32)
    tl.store(forgotten + place * n + token, up_to, there)
    tl.store(totals + place * chunks + chunk, tl.sum(step, 0))
    tl.store(peaks + place * chunks + chunk, tl.max(entered - up_to, 0))


@triton.jit
def writing(
    key,  # (b, h, n, D)
    value,  # (b, h, n, D)
    input_gate,  # (b, h, n)
    forgotten,  # (b, lane, n)
    totals,  # (b, lane, chunks)
    peaks,  # (b, lane, chunks)
    memory,  # (b, lane, chunks, D, D), written
    normal,  # (b, lane, chunks, D), written
    exponent,  # (b, lane, chunks), written
    stride_b,
    stride_h,
    stride_n,
    heads,
    ahead,
    lanes,
    n,
    chunks,
    IN_BF16: tl.constexpr,
    PRECISION: tl.constexpr,
    SCALE: tl.constexpr,
    D: tl.constexpr,
    PADDED: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A block of the memory before each chunk, in the order of reading."""
    place, item, head, is_back = _lane(heads, ahead, lanes)
    row, column = _block(PADDED, ROWS, COLUMNS)
    block = (row < D)[:, None] & (column < D)[None, :]
    at = item * stride_b + head * stride_h
    gate_at, place_n = (item * heads + head) * n, place * n
    state = tl.zeros([ROWS, COLUMNS], tl.float32)
    sums = tl.zeros([ROWS], tl.float32)
    before = tl.full([], -float("inf"), tl.float32)
    for number in range(chunks):
        chunk = tl.where(is_back, chunks - 1 - number, number)
        border = place * chunks + chunk
        tl.store(memory + border * D * D + row[:, None] * D + column[None, :], state, block)
        if tl.program_id(0) % (PADDED // COLUMNS) == 0:
            tl.store(normal + border * D + row, sums, row < D)
        if tl.program_id(0) == 0:
            tl.store(exponent + border, before)
        token = chunk.to(tl.int64) * CHUNK + tl.arange(0, CHUNK)
        there = token < n
        total = tl.load(totals + border)
        after = total + tl.maximum(before, tl.load(peaks + border))
        written = _written(input_gate + gate_at, forgotten + place_n, token, there)
        gain = tl.exp(total + written - after) * SCALE
        kept = tl.exp(total + before - after)
        keys = _tokens(key + at, token, there, stride_n, row, D)
        values = _tokens(value + at, token, there, stride_n, column, D)
        gained = tl.trans(keys).to(tl.float32) * gain[None, :]
        state = _product(gained, values, state * kept, IN_BF16, PRECISION)
        sums = sums * kept + tl.sum(gained, 1)
        before = after


@triton.jit
def reading(
    query,  # (b, h, n, D)
    key,  # (b, h, n, D)
    value,  # (b, h, n, D)
    input_gate,  # (b, h, n)
    forgotten,  # (b, lane, n)
    memory,  # (b, lane, chunks, D, D)
    normal,  # (b, lane, chunks, D)
    exponent,  # (b, lane, chunks)
    read,  # (b, n, lane, D), written
    whole,  # (b, lane, n), written
    stride_b,
    stride_h,
    stride_n,
    heads,
    ahead,
    lanes,
    n,
    chunks,
    IN_BF16: tl.constexpr,
    PRECISION: tl.constexpr,
    SCALE: tl.constexpr,
    D: tl.constexpr,
    PADDED: tl.constexpr,
    CHUNK: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """What the tokens of a chunk read of each other and of the state before it."""
    chunk, place, of_head, is_back, token, there = _chunk(heads, ahead, lanes, n, CHUNK)
    at = of_head // heads * stride_b + of_head % heads * stride_h
    border = place * chunks + chunk
    up_to = tl.load(forgotten + place * n + token, there, other=0.0)
    written = _written(input_gate + of_head * n, forgotten + place * n, token, there)
    before = tl.load(exponent + border)
    seen = _seen(is_back, CHUNK)
    top = _top(written, before, seen, there)
    similar = tl.zeros([CHUNK, CHUNK], tl.float32)
    mixed = tl.zeros([CHUNK, PADDED], tl.float32)
    sums = tl.zeros([CHUNK], tl.float32)
    column = tl.arange(0, PADDED)
    for first in range(0, PADDED, WIDTH):
        part = first + tl.arange(0, WIDTH)
        queries = _tokens(query + at, token, there, stride_n, part, D)
        keys = _tokens(key + at, token, there, stride_n, part, D)
        similar = _product(queries, tl.trans(keys), similar, IN_BF16, PRECISION)
        rows = _matrix(memory + border * D * D, part, column, D, D)
        mixed = _product(queries, rows, mixed, IN_BF16, PRECISION)
        norms = tl.load(normal + border * D + part, part < D, other=0.0)
        sums += tl.sum(queries.to(tl.float32) * norms[None, :], 1)
    pair = tl.exp(tl.where(seen, written[None, :], -float("inf")) - top[:, None])
    past = tl.where(there, tl.exp(before - top), 0.0)
    weights = similar * SCALE * pair
    total = tl.sum(weights, 1) + past * sums
    values = _tokens(value + at, token, there, stride_n, column, D)
    mixed = _product(weights, values, mixed * past[:, None], IN_BF16, PRECISION)
    mixed *= _inverse(total, up_to, top)[:, None]
    tl.store(whole + place * n + token, total, there)
    _store_lane(read, mixed, token, there, column, lanes, n, D)


@triton.jit
def sloping(
    input_gate,  # (b, h, n)
    grad,  # (b, n, lane, D)
    read,  # (b, n, lane, D)
    whole,  # (b, lane, n)
    forgotten,  # (b, lane, n)
    totals,  # (b, lane, chunks)
    peaks,  # (b, lane, chunks)
    exponent,  # (b, lane, chunks)
    inverses,  # (b, lane, n), written
    of_whole,  # (b, lane, n), written
    tops,  # (b, lane, n), written
    of_top,  # (b, lane, n), written
    handed,  # (b, lane, chunks), written
    to_state,  # (b, lane, chunks), written
    heads,
    ahead,
    lanes,
    n,
    chunks,
    D: tl.constexpr,
    PADDED: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """What the tokens of a chunk hand back: `_Slopes`."""
    chunk, place, of_head, is_back, token, there = _chunk(heads, ahead, lanes, n, CHUNK)
    border = place * chunks + chunk
    up_to = tl.load(forgotten + place * n + token, there, other=0.0)
    written = _written(input_gate + of_head * n, forgotten + place * n, token, there)
    before, total = tl.load(exponent + border), tl.load(totals + border)
    after = total + tl.maximum(before, tl.load(peaks + border))
    seen = _seen(is_back, CHUNK)
    top = _top(written, before, seen, there)
    column = tl.arange(0, PADDED)
    slope = _load_lane(grad, token, there, column, lanes, n, D).to(tl.float32)
    result = _load_lane(read, token, there, column, lanes, n, D).to(tl.float32)
    sums = tl.load(whole + place * n + token, there, other=0.0)
    inverse = _inverse(sums, up_to, top)
    dot = tl.sum(slope * result, 1) * inverse
    is_sum = tl.abs(sums) >= _least(up_to, top)
    down_whole = tl.where(is_sum, tl.where(sums < 0, dot, -dot), 0.0)
    down_top = -dot * _EPSILON
    share = _share(down_top, written, before, top, seen, there)
    tl.store(inverses + place * n + token, inverse, there)
    tl.store(of_whole + place * n + token, down_whole, there)
    tl.store(tops + place * n + token, top, there)
    tl.store(of_top + place * n + token, down_top, there)
    tl.store(to_state + border, tl.sum(tl.where(there & (before == top), share, 0.0), 0))
    is_kept = tl.where(total + before == after, 1.0, 0.0)
    count = tl.sum(tl.where(total + written == after, 1.0, 0.0), 0) + is_kept
    tl.store(handed + border, is_kept / count)


@triton.jit
def returning(
    query,  # (b, h, n, D)
    grad,  # (b, n, lane, D)
    totals,  # (b, lane, chunks)
    peaks,  # (b, lane, chunks)
    exponent,  # (b, lane, chunks)
    inverses,  # (b, lane, n)
    of_whole,  # (b, lane, n)
    tops,  # (b, lane, n)
    handed,  # (b, lane, chunks)
    to_state,  # (b, lane, chunks)
    of_memory,  # (b, lane, chunks, D, D), written
    of_normal,  # (b, lane, chunks, D), written
    of_exponent,  # (b, lane, chunks), written
    stride_b,
    stride_h,
    stride_n,
    heads,
    ahead,
    lanes,
    n,
    chunks,
    IN_BF16: tl.constexpr,
    PRECISION: tl.constexpr,
    D: tl.constexpr,
    PADDED: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The gradient of a block of the memory behind each chunk, from the one read last."""
    place, item, head, is_back = _lane(heads, ahead, lanes)
    row, column = _block(PADDED, ROWS, COLUMNS)
    block = (row < D)[:, None] & (column < D)[None, :]
    at = item * stride_b + head * stride_h
    state = tl.zeros([ROWS, COLUMNS], tl.float32)
    sums = tl.zeros([ROWS], tl.float32)
    behind = tl.zeros([], tl.float32)
    for number in range(chunks):
        chunk = tl.where(is_back, number, chunks - 1 - number)
        border = place * chunks + chunk
        tl.store(of_memory + border * D * D + row[:, None] * D + column[None, :], state, block)
        if tl.program_id(0) % (PADDED // COLUMNS) == 0:
            tl.store(of_normal + border * D + row, sums, row < D)
        if tl.program_id(0) == 0:
            tl.store(of_exponent + border, behind)
        token = chunk.to(tl.int64) * CHUNK + tl.arange(0, CHUNK)
        there = token < n
        before, total = tl.load(exponent + border), tl.load(totals + border)
        kept = tl.exp(total + before - (total + tl.maximum(before, tl.load(peaks + border))))
        top = tl.load(tops + place * n + token, there, other=float("inf"))
        past = tl.where(there, tl.exp(before - top), 0.0)
        inverse = tl.load(inverses + place * n + token, there, other=0.0)
        whole = tl.load(of_whole + place * n + token, there, other=0.0)
        queries = tl.trans(_tokens(query + at, token, there, stride_n, row, D)).to(tl.float32)
        slope = _load_lane(grad, token, there, column, lanes, n, D)
        shared = queries * (past * inverse)[None, :]
        state = _product(shared, slope, state * kept, IN_BF16, PRECISION)
        sums = sums * kept + tl.sum(queries * (past * whole)[None, :], 1)
        behind = behind * tl.load(handed + border) + tl.load(to_state + border)


@triton.jit
def down(
    query,  # (b, h, n, D)
    key,  # (b, h, n, D)
    value,  # (b, h, n, D)
    input_gate,  # (b, h, n)
    forget_gate,  # (b, h, n)
    grad,  # (b, n, lane, D)
    forgotten,  # (b, lane, n)
    totals,  # (b, lane, chunks)
    peaks,  # (b, lane, chunks)
    memory,  # (b, lane, chunks, D, D)
    normal,  # (b, lane, chunks, D)
    exponent,  # (b, lane, chunks)
    of_memory,  # (b, lane, chunks, D, D), behind each chunk
    of_normal,  # (b, lane, chunks, D)
    of_exponent,  # (b, lane, chunks)
    inverses,  # (b, lane, n)
    of_whole,  # (b, lane, n)
    tops,  # (b, lane, n)
    of_top,  # (b, lane, n)
    of_query,  # (b, lane, n, D), written
    of_key,  # (b, lane, n, D), written
    of_value,  # (b, lane, n, D), written
    of_input,  # (b, lane, n), written
    of_forget,  # (b, lane, n), written
    stride_b,
    stride_h,
    stride_n,
    found_b,
    found_lane,
    found_n,
    heads,
    ahead,
    lanes,
    n,
    chunks,
    IN_BF16: tl.constexpr,
    PRECISION: tl.constexpr,
    SCALE: tl.constexpr,
    D: tl.constexpr,
    PADDED: tl.constexpr,
    CHUNK: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The gradients of a chunk's tokens; those of keys are of keys as given, without SCALE."""
    chunk, place, of_head, is_back, token, there = _chunk(heads, ahead, lanes, n, CHUNK)
    at = of_head // heads * stride_b + of_head % heads * stride_h
    found = place // lanes * found_b + place % lanes * found_lane
    border, of_token = place * chunks + chunk, place * n + token
    written = _written(input_gate + of_head * n, forgotten + place * n, token, there)
    before, total = tl.load(exponent + border), tl.load(totals + border)
    after = total + tl.maximum(before, tl.load(peaks + border))
    top = tl.load(tops + of_token, there, other=float("inf"))
    inverse = tl.load(inverses + of_token, there, other=0.0)
    whole = tl.load(of_whole + of_token, there, other=0.0)
    seen, column = _seen(is_back, CHUNK), tl.arange(0, PADDED)
    pair = tl.exp(tl.where(seen, written[None, :], -float("inf")) - top[:, None])
    past = tl.where(there, tl.exp(before - top), 0.0)
    gain = tl.exp(total + written - after) * SCALE
    # The next chunk that is read begins with the state behind this one.
    next_border = border + tl.where(is_back, -1, 1)
    has_next = tl.where(is_back, chunk > 0, chunk + 1 < chunks)
    similar = tl.zeros([CHUNK, CHUNK], tl.float32)
    of_mixed = tl.zeros([CHUNK, CHUNK], tl.float32)
    for first in range(0, PADDED, WIDTH):
        part = first + tl.arange(0, WIDTH)
        queries = _tokens(query + at, token, there, stride_n, part, D)
        keys = _tokens(key + at, token, there, stride_n, part, D)
        similar = _product(queries, tl.trans(keys), similar, IN_BF16, PRECISION)
        slope = _load_lane(grad, token, there, part, lanes, n, D)
        values = _tokens(value + at, token, there, stride_n, part, D)
        of_mixed = _product(slope, tl.trans(values), of_mixed, IN_BF16, PRECISION)
    mixed = _operand(similar * SCALE * pair, IN_BF16)
    of_similar = (of_mixed * inverse[:, None] + whole[:, None]) * pair * SCALE
    of_similar = _operand(of_similar, IN_BF16)

    down_query = tl.zeros([CHUNK, PADDED], tl.float32)
    for first in range(0, PADDED, WIDTH):
        part = first + tl.arange(0, WIDTH)
        slope = _load_lane(grad, token, there, part, lanes, n, D)
        state = _matrix(memory + border * D * D, column, part, D, D)
        down_query = _product(slope, tl.trans(state), down_query, IN_BF16, PRECISION)
    norms = tl.load(normal + border * D + column, column < D, other=0.0)
    down_query = (down_query * inverse[:, None] + whole[:, None] * norms[None, :]) * past[:, None]
    all_keys = _tokens(key + at, token, there, stride_n, column, D)
    down_query = _product(of_similar, all_keys, down_query, IN_BF16, PRECISION)
    _store(of_query + found, down_query, token, there, found_n, column, D)
    all_queries = _tokens(query + at, token, there, stride_n, column, D)
    down_top = tl.load(of_top + of_token, there, other=0.0)
    rows = tl.sum(all_queries.to(tl.float32) * down_query, 1) + down_top

    down_key = tl.zeros([CHUNK, PADDED], tl.float32)
    crossing = tl.zeros([PADDED], tl.float32)
    for first in range(0, PADDED, WIDTH):
        part = first + tl.arange(0, WIDTH)
        values = _tokens(value + at, token, there, stride_n, part, D)
        of_state = _matrix(of_memory + border * D * D, column, part, D, D)
        down_key = _product(values, tl.trans(of_state), down_key, IN_BF16, PRECISION)
        bound = tl.where(has_next, D, 0)
        behind = _matrix(memory + next_border * D * D, column, part, bound, D)
        crossing += tl.sum(of_state * behind, 1)
    of_norms = tl.load(of_normal + border * D + column, column < D, other=0.0)
    down_key = (down_key + of_norms[None, :]) * gain[:, None]
    down_key = _product(tl.trans(of_similar), all_queries, down_key, IN_BF16, PRECISION)
    _store(of_key + found, down_key, token, there, found_n, column, D)
    columns = tl.sum(all_keys.to(tl.float32) * down_key, 1)

    down_value = tl.zeros([CHUNK, PADDED], tl.float32)
    for first in range(0, PADDED, WIDTH):
        part = first + tl.arange(0, WIDTH)
        keys = _tokens(key + at, token, there, stride_n, part, D)
        of_state = _matrix(of_memory + border * D * D, part, column, D, D)
        down_value = _product(keys, of_state, down_value, IN_BF16, PRECISION)
    slopes = _load_lane(grad, token, there, column, lanes, n, D).to(tl.float32) * inverse[:, None]
    down_value = _product(tl.trans(mixed), slopes, down_value * gain[:, None], IN_BF16, PRECISION)
    _store(of_value + found, down_value, token, there, found_n, column, D)

    down_exponent = tl.load(of_exponent + border)
    share = _share(down_top, written, before, top, seen, there)
    equal = seen & there[:, None] & (written[None, :] == top[:, None])
    columns += tl.sum(tl.where(equal, share[:, None], 0.0), 0)
    is_gained = tl.where(total + written == after, 1.0, 0.0)
    count = tl.sum(is_gained, 0) + tl.where(total + before == after, 1.0, 0.0)
    columns += is_gained * (down_exponent / count)
    norms = tl.load(normal + next_border * D + column, (column < D) & has_next, other=0.0)
    crosses = tl.sum(crossing + of_norms * norms, 0) + down_exponent
    step = tl.where(there, rows - columns, 0.0)
    back_to = tl.where(is_back, tl.cumsum(step, 0), tl.cumsum(step, 0, reverse=True))
    gate = tl.load(forget_gate + of_head * n + token, there, other=0.0).to(tl.float32)
    tl.store(of_input + of_token, columns, there)
    small = tl.exp(-tl.abs(gate))
    slope = tl.where(gate > 0, small, 1.0) / (1.0 + small)  # of log sigmoid
    tl.store(of_forget + of_token, (crosses + back_to) * slope, there)


@triton.jit
def _lane(heads, ahead, lanes):
    """A program's place among the lanes of all items, its item, head and direction."""
    place = tl.program_id(1).to(tl.int64)
    lane = place % lanes
    # The backward lanes are the last ones, of the last heads.
    head = tl.where(lane < ahead, lane, lane + heads - lanes)
    return place, place // lanes, head, lane >= ahead


@triton.jit
def _chunk(heads, ahead, lanes, n, CHUNK: tl.constexpr):
    """A program's chunk and lane, the row of its item and head, and its tokens."""
    place, item, head, is_back = _lane(heads, ahead, lanes)
    chunk = tl.program_id(0).to(tl.int64)
    token = chunk * CHUNK + tl.arange(0, CHUNK)
    return chunk, place, item * heads + head, is_back, token, token < n


@triton.jit
def _block(PADDED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A program's rows and columns of a memory."""
    number = tl.program_id(0)
    row = number // (PADDED // COLUMNS) * ROWS + tl.arange(0, ROWS)
    return row, number % (PADDED // COLUMNS) * COLUMNS + tl.arange(0, COLUMNS)


@triton.jit
def _written(input_gate, forgotten, token, there):
    """The exponents with which tokens are written; minus infinity where there is none."""
    entered = tl.load(input_gate + token, there, other=-float("inf")).to(tl.float32)
    return entered - tl.load(forgotten + token, there, other=0.0)


@triton.jit
def _seen(is_back, CHUNK: tl.constexpr):
    """Which tokens (columns) lie before which (rows) in the order of reading, or are the same."""
    apart = tl.arange(0, CHUNK)[:, None] - tl.arange(0, CHUNK)[None, :]
    return tl.where(is_back, apart <= 0, apart >= 0)


@triton.jit
def _top(written, before, seen, there):
    """The largest exponent that each token reads; infinity where there is no token."""
    largest = tl.max(tl.where(seen, written[None, :], -float("inf")), 1)
    return tl.where(there, tl.maximum(largest, before), float("inf"))


@triton.jit
def _share(of_top, written, before, top, seen, there):
    """The gradient of a largest exponent, for each of those that are equal to it."""
    equal = tl.where(seen & (written[None, :] == top[:, None]), 1.0, 0.0)
    count = tl.sum(equal, 1) + tl.where(before == top, 1.0, 0.0)
    return tl.where(there, of_top / tl.maximum(count, 1.0), 0.0)


@triton.jit
def _least(up_to, top):
    return tl.exp(tl.minimum(-(up_to + top), _MOST))


@triton.jit
def _inverse(whole, up_to, top):
    """One by what results are divided by."""
    return 1.0 / (tl.maximum(tl.abs(whole), _least(up_to, top)) + _EPSILON)


@triton.jit
def _operand(values, IN_BF16: tl.constexpr):
    return values.to(tl.bfloat16 if IN_BF16 else tl.float32)


@triton.jit
def _product(a, b, added, IN_BF16: tl.constexpr, PRECISION: tl.constexpr):
    a, b = _operand(a, IN_BF16), _operand(b, IN_BF16)
    return tl.dot(a, b, added, input_precision=PRECISION)


@triton.jit
def _tokens(at, token, there, stride_n, column, D: tl.constexpr):
    """Columns of some tokens of a head."""
    places = (token * stride_n)[:, None] + column[None, :]
    return tl.load(at + places, there[:, None] & (column < D)[None, :], other=0.0)


@triton.jit
def _store(at, values, token, there, stride_n, column, D: tl.constexpr):
    places = (token * stride_n)[:, None] + column[None, :]
    mask = there[:, None] & (column < D)[None, :]
    tl.store(at + places, values.to(at.dtype.element_ty), mask)


@triton.jit
def _load_lane(at, token, there, column, lanes, n, D: tl.constexpr):
    """Columns of some tokens of the program's lane of a tensor (b, n, lane, D)."""
    place = tl.program_id(1).to(tl.int64)
    at += (place // lanes * n * lanes + place % lanes) * D
    return _tokens(at, token, there, lanes * D, column, D)


@triton.jit
def _store_lane(at, values, token, there, column, lanes, n, D: tl.constexpr):
    place = tl.program_id(1).to(tl.int64)
    at += (place // lanes * n * lanes + place % lanes) * D
    _store(at, values, token, there, lanes * D, column, D)


@triton.jit
def _matrix(at, row, column, bound, D: tl.constexpr):
    """A block of a matrix (D, D), 0 from row and column `bound` on."""
    mask = (row < bound)[:, None] & (column < bound)[None, :]
    return tl.load(at + row[:, None] * D + column[None, :], mask, other=0.0)
