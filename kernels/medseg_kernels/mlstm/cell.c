/* The mLSTM cell over floats, forward and backward, a chunk of tokens at a time.

   A lane, which is a head that reads in one direction, is gone through chunk by chunk. Tokens are
   copied in the order in which they are read, so that here all of them read what lies before them.
   Names are those of chunks.py: token t reads token s with the weight exp(u_s - top_t), and the
   state before its chunk with exp(m - top_t). Rows of a room have a whole number of vectors. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../exponential.h"

static const float EPSILON = 1e-6f, MOST = 80, NOTHING = -1e30f;

/* Rows and vectors of a step of a product: as many sums as there are registers. */
enum { ROWS = 6 };
#if defined(__AVX512F__) || defined(__ARM_NEON)
enum { BAND = 4 };
#else
enum { BAND = 2 };
#endif

/* `to` becomes `kept` times itself, or nothing, and a times b. */
typedef struct {
    const float *a;
    number row, next; /* how far apart rows of a, and numbers of a row, lie */
    const float *b;
    float *to;
    number width; /* of rows of b and of `to` */
    number rows, depth;
    float kept;
    enum { ALL, TO_EARLIER, OF_EARLIER, OF_LATER } reach;
} Product;

INLINE void multiply_step(
    const int R, const int W, const Product *p, number row, number column, number from,
    number until)
{
    vec sums[R][W];
    for (int r = 0; r < R; r++)
        for (int w = 0; w < W; w++) {
            const vec old = load(p->to + (row + r) * p->width + column + w * LANES);
            sums[r][w] = p->kept ? p->kept * old : splat(0);
        }
    for (number d = from; d < until; d++) {
        vec line[W];
        for (int w = 0; w < W; w++)
            line[w] = load(p->b + d * p->width + column + w * LANES);
        for (int r = 0; r < R; r++) {
            const vec each = splat(p->a[(row + r) * p->row + d * p->next]);
            for (int w = 0; w < W; w++)
                sums[r][w] = plus(sums[r][w], each, line[w]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int w = 0; w < W; w++)
            store(p->to + (row + r) * p->width + column + w * LANES, sums[r][w]);
}

#define ROWS_CASE(R, W) \
    case R: \
        multiply_step(R, W, p, row, column, from, until); \
        break;
#define OF_WIDTH(W) \
    static void multiply_##W( \
        number rows, const Product *p, number row, number column, number from, number until) \
    { \
        switch (rows) { \
            ROWS_CASE(1, W) \
            ROWS_CASE(2, W) \
            ROWS_CASE(3, W) \
            ROWS_CASE(4, W) \
            ROWS_CASE(5, W) \
            ROWS_CASE(6, W) \
        } \
    }
OF_WIDTH(1)
OF_WIDTH(2)
OF_WIDTH(BAND)

/* Of TO_EARLIER what lies behind a row's own column may be anything. */
static void multiply(Product product)
{
    const Product *p = &product;
    for (number column = 0, vectors; column < p->width; column += vectors * LANES) {
        vectors = (p->width - column) / LANES;
        vectors = vectors >= BAND ? BAND : least(vectors, 2);
        for (number row = 0; row < p->rows; row += ROWS) {
            const number rows = least(ROWS, p->rows - row);
            const number from = p->reach == OF_LATER ? row : 0;
            const number until = p->reach == OF_EARLIER ? row + rows : p->depth;
            if (p->reach == TO_EARLIER && column >= row + rows)
                continue;
            if (vectors == BAND)
                multiply_BAND(rows, p, row, column, from, until);
            else if (vectors == 2)
                multiply_2(rows, p, row, column, from, until);
            else
                multiply_1(rows, p, row, column, from, until);
        }
    }
}

typedef struct {
    const float *query, *key, *value;   /* (b, h, n, d), alike in memory, channels side by side */
    const float *entered, *steps;       /* (b, h, n): input gate, log sigmoid of the forget gate */
    float *read, *whole;                /* (b, n, lane, d), (b, lane, n) */
    number item, head, token;           /* how far apart these lie in queries */
    number heads, ahead, lanes, tokens, size, chunk;
} Given;

/* The gradient of what was read, and those that are wanted: (b, lane, n, d), alike in memory. */
typedef struct {
    const float *gradient; /* (b, n, lane, d) */
    float *query, *key, *value;
    number item, lane, token;
    float *entered, *steps; /* (b, lane, n) */
} Slopes;

/* One lane of one item. */
typedef struct {
    number item, lane, head;
    int is_back;
} Lane;

/* What has been written so far, or its gradient. */
typedef struct {
    float *memory, *normal; /* d rows, and one */
    float exponent;
} State;

/* A chunk and what is made of it: matrices of its tokens, and a number a token. */
typedef struct {
    number begin, count;
    number wide, across; /* of rows of d numbers, and of rows of a number a token */
    float *query, *key, *value, *turned, *out, *gained, *slope;
    float *pair, *mixed, *of_mixed;
    float *forgotten, *written, *top, *past, *gain, *whole, *of_whole, *of_top, *rows, *columns;
    float before, total, after;
} Chunk;

static float one_power(float x) { return power(splat(x))[0]; }

INLINE float added(vec value)
{
    typedef float four __attribute__((vector_size(16), may_alias));
    const four *quarters = (const four *)&value;
    four sum = quarters[0];
    for (int n = 1; n < LANES / 4; n++)
        sum += quarters[n];
    return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

static float dot(const float *a, const float *b, number width)
{
    vec sum = splat(0);
    for (number n = 0; n < width; n += LANES)
        sum = plus(sum, load(a + n), load(b + n));
    return added(sum);
}

/* Row t becomes `scale` times itself and `times` times another row. */
static void scale_row(float *row, float scale, float times, const float *other, number width)
{
    for (number n = 0; n < width; n += LANES)
        store(row + n, plus(scale * load(row + n), splat(times), load(other + n)));
}

static number token_of(const Given *g, Lane lane, number read)
{
    return lane.is_back ? g->tokens - 1 - read : read;
}

static number of_gate(const Given *g, Lane lane, number read)
{
    return (lane.item * g->heads + lane.head) * g->tokens + token_of(g, lane, read);
}

static number of_lane(const Given *g, Lane lane, number read)
{
    return (lane.item * g->lanes + lane.lane) * g->tokens + token_of(g, lane, read);
}

/* Where a token's row lies in (b, n, lane, d). */
static number of_read(const Given *g, Lane lane, number read)
{
    return ((lane.item * g->tokens + token_of(g, lane, read)) * g->lanes + lane.lane) * g->size;
}

static void take(
    const Given *g, Lane lane, const float *from, const Chunk *c, float scale, float *to)
{
    from += lane.item * g->item + lane.head * g->head;
    for (number t = 0; t < c->count; t++) {
        const float *row = from + token_of(g, lane, c->begin + t) * g->token;
        for (number n = 0; n < g->size; n++)
            to[t * c->wide + n] = scale * row[n];
    }
}

static void turn(
    const float *rows, number count, number size, number wide, number across, float *to)
{
    for (number n = 0; n < size; n += 8)
        for (number t = 0; t < count; t++)
            for (number m = n; m < least(n + 8, size); m++)
                to[m * across + t] = rows[t * wide + m];
}

/* The chunk's exponents, with that of the state before it; keys and values. */
static void begin_chunk(const Given *g, Lane lane, number number_of, float before, Chunk *c)
{
    c->begin = number_of * g->chunk;
    c->count = least(g->chunk, g->tokens - c->begin);
    float forgotten = 0, peak = NOTHING;
    for (number t = 0; t < c->across; t++) {
        c->written[t] = NOTHING;
        if (t < c->count) {
            const number at = of_gate(g, lane, c->begin + t);
            c->forgotten[t] = forgotten += g->steps[at];
            c->written[t] = g->entered[at] - forgotten;
            peak = c->written[t] > peak ? c->written[t] : peak;
            c->top[t] = peak > before ? peak : before;
        }
    }
    c->before = before;
    c->total = forgotten;
    c->after = forgotten + (before > peak ? before : peak);
    for (number t = 0; t < c->across; t += LANES) {
        store(c->gain + t, power(c->total + load(c->written + t) - c->after));
        store(c->past + t, power(c->before - load(c->top + t)));
    }
    take(g, lane, g->key, c, 1 / sqrtf((float)g->size), c->key);
    take(g, lane, g->value, c, 1, c->value);
    for (number t = 0; t < c->count; t++)
        for (number n = 0; n < c->wide; n += LANES)
            store(c->gained + t * c->wide + n, c->gain[t] * load(c->key + t * c->wide + n));
}

static float kept(const Chunk *c) { return one_power(c->total + c->before - c->after); }

/* The state behind the chunk; `turned` is whether rows of the memory are of values. */
static void write_chunk(const Given *g, const Chunk *c, State *state, int turned)
{
    const float *rows = turned ? c->value : c->gained, *columns = turned ? c->gained : c->value;
    const float keeps = kept(c);
    multiply((Product){
        rows, 1, c->wide, columns, state->memory, c->wide, g->size, c->count, keeps, ALL});
    for (number n = 0; n < c->wide; n += LANES) {
        vec sum = keeps * load(state->normal + n);
        for (number t = 0; t < c->count; t++)
            sum += load(c->gained + t * c->wide + n);
        store(state->normal + n, sum);
    }
    state->exponent = c->after;
}

/* Weights of pairs, times similarities; 0 where a token would read what comes later. */
static void weigh(const Given *g, Lane lane, Chunk *c)
{
    integers place;
    for (int l = 0; l < LANES; l++)
        place[l] = l;
    take(g, lane, g->query, c, 1, c->query);
    turn(c->key, c->count, g->size, c->wide, c->across, c->turned);
    multiply((Product){
        c->query, c->wide, 1, c->turned, c->mixed, c->across, c->count, g->size, 0, TO_EARLIER});
    for (number t = 0; t < c->count; t++) {
        float *pair = c->pair + t * c->across, *mixed = c->mixed + t * c->across;
        for (number s = 0; s < c->across; s += LANES) {
            vec weight = splat(0), product = splat(0);
            if (s <= t) {
                const integers seen = place + (int)s <= (int)t;
                weight = choose(seen, power(load(c->written + s) - c->top[t]), weight);
                product = choose(seen, weight * load(mixed + s), product);
            }
            store(pair + s, weight);
            store(mixed + s, product);
        }
    }
}

static float least_of(const Chunk *c, number t)
{
    const float exponent = -(c->forgotten[t] + c->top[t]);
    return one_power(exponent < MOST ? exponent : MOST);
}

static float divisor(const Chunk *c, number t)
{
    const float sum = fabsf(c->whole[t]), bound = least_of(c, t);
    return (sum > bound ? sum : bound) + EPSILON;
}

static void read_chunk(const Given *g, Lane lane, Chunk *c, const State *state)
{
    weigh(g, lane, c);
    multiply((Product){
        c->query, c->wide, 1, state->memory, c->out, c->wide, c->count, g->size, 0, ALL});
    for (number t = 0; t < c->count; t++) {
        float *out = c->out + t * c->wide;
        scale_row(out, c->past[t], 0, out, c->wide);
        vec sum = splat(0);
        for (number s = 0; s <= t; s += LANES)
            sum += load(c->mixed + t * c->across + s);
        c->whole[t] = added(sum) + c->past[t] * dot(c->query + t * c->wide, state->normal, c->wide);
        g->whole[of_lane(g, lane, c->begin + t)] = c->whole[t];
    }
    multiply((Product){
        c->mixed, c->across, 1, c->value, c->out, c->wide, c->count, c->count, 1, OF_EARLIER});
    for (number t = 0; t < c->count; t++) {
        float *to = g->read + of_read(g, lane, c->begin + t);
        const float inverse = 1 / divisor(c, t);
        for (number n = 0; n < g->size; n++)
            to[n] = inverse * c->out[t * c->wide + n];
    }
}

static void *room_of(number floats)
{
    /* Rows of a room are loaded whole: what no token fills must be a number. */
    void *room = aligned_alloc(sizeof(vec), up(floats * sizeof(float), sizeof(vec)));
    return room ? memset(room, 0, floats * sizeof(float)) : NULL;
}

static number chunks_of(const Given *g) { return (g->tokens + g->chunk - 1) / g->chunk; }
static number state_size(const Given *g) { return (g->size + 1) * up(g->size, LANES); }

enum { OF_SIZE = 7, OF_PAIRS = 3, OF_TOKENS = 10 };

static number chunk_size(const Given *g)
{
    const number wide = up(g->size, LANES), across = up(g->chunk, LANES);
    return (OF_SIZE - 1) * g->chunk * wide + g->size * across + OF_PAIRS * g->chunk * across
        + OF_TOKENS * across;
}

/* A chunk in a room of `chunk_size`. */
static Chunk chunk_in(const Given *g, float *room)
{
    Chunk c = {.wide = up(g->size, LANES), .across = up(g->chunk, LANES)};
    float **const of_size[] = {&c.query, &c.key, &c.value, &c.out, &c.gained, &c.slope};
    float **const of_pairs[] = {&c.pair, &c.mixed, &c.of_mixed};
    float **const of_tokens[] = {&c.forgotten, &c.written, &c.top, &c.past, &c.gain, &c.whole,
                                 &c.of_whole, &c.of_top, &c.rows, &c.columns};
    for (int n = 0; n < OF_SIZE - 1; n++, room += g->chunk * c.wide)
        *of_size[n] = room;
    for (int n = 0; n < OF_PAIRS; n++, room += g->chunk * c.across)
        *of_pairs[n] = room;
    for (int n = 0; n < OF_TOKENS; n++, room += c.across)
        *of_tokens[n] = room;
    c.turned = room;
    return c;
}

static State state_in(const Given *g, float *room)
{
    return (State){room, room + g->size * up(g->size, LANES), NOTHING};
}

static Lane lane_of(const Given *g, number unit)
{
    const number lane = unit % g->lanes;
    const int is_back = lane >= g->ahead;
    /* The backward lanes are the last ones, of the last heads. */
    return (Lane){unit / g->lanes, lane, is_back ? lane + g->heads - g->lanes : lane, is_back};
}

/* Units `begin` to `end` of b x lanes, one after the other; 1 where there is no memory. */
int cell(const Given *g, number begin, number end)
{
    float *room = room_of(chunk_size(g) + state_size(g));
    if (!room)
        return 1;
    Chunk c = chunk_in(g, room);
    for (number unit = begin; unit < end; unit++) {
        State state = state_in(g, room + chunk_size(g));
        memset(state.memory, 0, state_size(g) * sizeof(float));
        for (number n = 0; n < chunks_of(g); n++) {
            begin_chunk(g, lane_of(g, unit), n, state.exponent, &c);
            read_chunk(g, lane_of(g, unit), &c, &state);
            write_chunk(g, &c, &state, 0);
        }
    }
    free(room);
    return 0;
}

/* What the tokens hand back: `slope` becomes the gradient of the result before its division. */
static void slope_chunk(const Given *g, const Slopes *s, Lane lane, Chunk *c)
{
    for (number t = 0; t < c->count; t++) {
        const number at = of_read(g, lane, c->begin + t);
        float *slope = c->slope + t * c->wide;
        memcpy(slope, s->gradient + at, g->size * sizeof(float));
        memcpy(c->out, g->read + at, g->size * sizeof(float));
        c->whole[t] = g->whole[of_lane(g, lane, c->begin + t)];
        const float inverse = 1 / divisor(c, t), along = dot(slope, c->out, c->wide) * inverse;
        const int is_sum = fabsf(c->whole[t]) >= least_of(c, t);
        c->of_whole[t] = !is_sum ? 0 : c->whole[t] < 0 ? along : -along;
        c->of_top[t] = -EPSILON * along;
        scale_row(slope, inverse, 0, slope, c->wide);
    }
}

/* of_mixed becomes the gradient of similarities. */
static void pairs_backward(const Given *g, Chunk *c)
{
    turn(c->value, c->count, g->size, c->wide, c->across, c->turned);
    multiply((Product){c->slope, c->wide, 1, c->turned, c->of_mixed, c->across, c->count, g->size,
                       0, TO_EARLIER});
    for (number t = 0; t < c->count; t++)
        for (number n = t * c->across; n < (t + 1) * c->across; n += LANES) {
            const vec weight = load(c->pair + n), of = load(c->of_mixed + n) + c->of_whole[t];
            store(c->of_mixed + n, choose(weight != 0, of * weight, splat(0)));
        }
}

static void give(const Given *g, const Slopes *s, Lane lane, const Chunk *c, float scale, float *to)
{
    to += lane.item * s->item + lane.lane * s->lane;
    for (number t = 0; t < c->count; t++) {
        float *row = to + token_of(g, lane, c->begin + t) * s->token;
        for (number n = 0; n < g->size; n++)
            row[n] = scale * c->out[t * c->wide + n];
    }
}

/* Gradients of the chunk's tokens; `state` is that before it, turned; `later` the gradient of that
   behind it, `turned` its memory with rows of values. */
static void tokens_backward(
    const Given *g, const Slopes *s, Lane lane, Chunk *c, const State *state, const State *later,
    const float *turned)
{
    const number wide = c->wide, across = c->across, count = c->count;
    multiply((Product){c->slope, wide, 1, state->memory, c->out, wide, count, g->size, 0, ALL});
    for (number t = 0; t < count; t++)
        scale_row(c->out + t * wide, c->past[t], c->past[t] * c->of_whole[t], state->normal, wide);
    multiply((Product){c->of_mixed, across, 1, c->key, c->out, wide, count, count, 1, OF_EARLIER});
    for (number t = 0; t < count; t++)
        c->rows[t] = dot(c->query + t * wide, c->out + t * wide, wide) + c->of_top[t];
    give(g, s, lane, c, 1, s->query);
    multiply((Product){c->value, wide, 1, turned, c->out, wide, count, g->size, 0, ALL});
    for (number t = 0; t < count; t++)
        scale_row(c->out + t * wide, c->gain[t], c->gain[t], later->normal, wide);
    multiply((Product){c->of_mixed, 1, across, c->query, c->out, wide, count, count, 1, OF_LATER});
    for (number t = 0; t < count; t++)
        c->columns[t] = dot(c->key + t * wide, c->out + t * wide, wide);
    give(g, s, lane, c, 1 / sqrtf((float)g->size), s->key);
    multiply((Product){c->gained, wide, 1, later->memory, c->out, wide, count, g->size, 0, ALL});
    multiply((Product){c->mixed, 1, across, c->slope, c->out, wide, count, count, 1, OF_LATER});
    give(g, s, lane, c, 1, s->value);
}

static number ones(const float *weights, number count)
{
    number found = 0;
    for (number n = 0; n < count; n++)
        found += weights[n] == 1;
    return found;
}

/* A largest exponent hands its gradient to the exponents equal to it, whose weights are 1. Returns
   what reaches the exponent of the state before. */
static float tops_backward(Chunk *c, float of_exponent)
{
    const float keeps = kept(c);
    float to_state = 0;
    for (number t = 0; t < c->count; t++) {
        const float *pair = c->pair + t * c->across;
        const float share = c->of_top[t] / (ones(pair, t + 1) + (c->past[t] == 1));
        to_state += c->past[t] == 1 ? share : 0;
        for (number n = 0; n <= t; n++)
            c->columns[n] += pair[n] == 1 ? share : 0;
    }
    const float share = of_exponent / (ones(c->gain, c->count) + (keeps == 1));
    for (number t = 0; t < c->count; t++)
        c->columns[t] += c->gain[t] == 1 ? share : 0;
    return to_state + (keeps == 1 ? share : 0);
}

/* The forgetting at t is part of every exponent whose column lies before t and whose row does not:
   what crosses the border behind the chunk, and rows less columns from there back to t. */
static void gates_backward(
    const Given *g, const Slopes *s, Lane lane, const Chunk *c, float crossing)
{
    for (number t = c->count - 1; t >= 0; t--) {
        const number at = of_lane(g, lane, c->begin + t);
        crossing += c->rows[t] - c->columns[t];
        s->entered[at] = c->columns[t];
        s->steps[at] = crossing;
    }
}

/* The gradient of the state before the chunk from that behind it, but for the exponent. */
static void return_chunk(const Given *g, Chunk *c, State *later)
{
    const float keeps = kept(c);
    for (number t = 0; t < c->count; t++) /* queries are not needed any more */
        scale_row(c->query + t * c->wide, c->past[t], 0, c->query, c->wide);
    multiply((Product){
        c->query, 1, c->wide, c->slope, later->memory, c->wide, g->size, c->count, keeps, ALL});
    for (number n = 0; n < c->wide; n += LANES) {
        vec sum = keeps * load(later->normal + n);
        for (number t = 0; t < c->count; t++)
            sum = plus(sum, splat(c->of_whole[t]), load(c->query + t * c->wide + n));
        store(later->normal + n, sum);
    }
}

static void return_lane(
    const Given *g, const Slopes *s, Lane lane, Chunk *c, float *states, float *exponents,
    State later, float *turned)
{
    const number size = state_size(g), matrix = g->size * c->wide, chunks = chunks_of(g);
    State now = state_in(g, states);
    memset(states, 0, size * sizeof(float));
    for (number n = 0; n < chunks; n++) {
        exponents[n] = now.exponent;
        begin_chunk(g, lane, n, now.exponent, c);
        memcpy(states + (n + 1) * size, states + n * size, size * sizeof(float));
        now.memory = states + (n + 1) * size;
        now.normal = now.memory + matrix;
        write_chunk(g, c, &now, 1);
    }
    memset(later.memory, 0, size * sizeof(float));
    later.exponent = 0;
    for (number n = chunks - 1; n >= 0; n--) {
        const State before = {states + n * size, states + n * size + matrix, exponents[n]};
        const float *behind = states + (n + 1) * size;
        turn(later.memory, g->size, g->size, c->wide, c->wide, turned);
        begin_chunk(g, lane, n, before.exponent, c);
        weigh(g, lane, c);
        slope_chunk(g, s, lane, c);
        pairs_backward(g, c);
        tokens_backward(g, s, lane, c, &before, &later, turned);
        float crossing = later.exponent + dot(later.normal, behind + matrix, c->wide);
        crossing += dot(turned, behind, matrix);
        later.exponent = tops_backward(c, later.exponent);
        gates_backward(g, s, lane, c, crossing);
        return_chunk(g, c, &later);
    }
}

/* As `cell`, from what it read and the gradient of that. */
int cell_backward(const Given *g, const Slopes *s, number begin, number end)
{
    const number size = state_size(g), chunks = chunks_of(g);
    float *room = room_of(chunk_size(g) + (chunks + 3) * size + up(chunks, LANES));
    if (!room)
        return 1;
    Chunk c = chunk_in(g, room);
    float *later = room + chunk_size(g), *turned = later + size, *states = turned + size;
    for (number unit = begin; unit < end; unit++)
        return_lane(
            g, s, lane_of(g, unit), &c, states, states + (chunks + 1) * size, state_in(g, later),
            turned);
    free(room);
    return 0;
}
