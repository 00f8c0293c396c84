/* Attention over floats, softmax(scale Q K^T + B) V, and its gradients, a few queries at a time.

   Keys, and values where gradients are asked for, are laid out in bands of a few vectors, each with
   a row for each channel; what lies beyond the last key has no weight. All else lies in rows, whose
   channels are filled up with zeros to whole vectors. */

#include <math.h>
#include <string.h>

#include "../exponential.h"

/* Rows and vectors of a step of a product: as many sums as there are registers. */
#if defined(__AVX512F__) || defined(__ARM_NEON)
enum { ROWS = 8 };
#else
enum { ROWS = 4 };
#endif
/* Forward takes so many keys at a time that scores of ROWS queries stay in a core's first cache, and so many
   queries one after the other while these keys are in its second. */
enum { BAND = 3, WIDE = BAND * LANES, CHUNK = 8 * WIDE, NEAR = 8 * ROWS };

/* Sums stay in registers where loops over them are unrolled, however long that is, and where not
   too much stands around them. */
#define OVER_ROWS _Pragma("GCC unroll 8") for (int r = 0; r < ROWS; r++)
#define APART __attribute__((noinline))
#define OVER_VECTORS _Pragma("GCC unroll 3") for (int w = 0; w < W; w++)

/* An array (group, head, row, number): the last axis lies close together, along the others it goes
   on `apart` floats further. Or the rows of a group are any: `rows` has their numbers, `rows_apart` for
   each group, and those from `within` on are all the one at `other`, unless that is NULL. */
typedef struct {
    float *first;
    number apart[3];
    const number *rows;
    number rows_apart, within;
    float *other;
} Array;

/* Those of queries and keys have a row for each; biases have one for each query, a number a key. Keys
   may stand on a grid of `places`, the last axis fastest, and a bias be a sum of one number an axis:
   then there are no others, and `axes` have a row for each query, a number a place, save those in
   front, which may be missing. */
typedef struct {
    number groups, queries, keys, channels;
    float scale;
    number places[3];
    Array query, key, value, bias, result, slope, of_query, of_key, of_value, of_bias;
    Array axes[3], of_axes[3];
} Attention;

/* Of one head of a group. */
static Array head_of(const Array *array, number group, number head)
{
    Array found = *array;
    if (found.first)
        found.first += group * found.apart[0] + head * found.apart[1];
    if (found.rows)
        found.rows += group * found.rows_apart;
    if (found.other)
        found.other += head * found.apart[1];
    return found;
}

static float *row_of(const Array *array, number row)
{
    if (array->rows)
        row = array->rows[row];
    if (array->other && row >= array->within)
        return array->other;
    return array->first + row * array->apart[2];
}

/* What a head of a group adds to its scores, or what it is differentiated into. */
typedef struct {
    Array all, axes[3];
} Biases;

static Biases biases_of(const Array *all, const Array *axes, number group, number head)
{
    Biases found = {.all = head_of(all, group, head)};
    for (int axis = 0; axis < 3; axis++)
        found.axes[axis] = head_of(&axes[axis], group, head);
    return found;
}

static number width(const Attention *a) { return up(a->channels, LANES); }

/* How wide the band of the keys from `at` on is. */
static number wide_at(const Attention *a, number at)
{
    return least(WIDE, up(a->keys, LANES) - at);
}

static void scale_row(const Attention *a, const float *from, float factor, float *to)
{
    number d = 0;
    for (; d + LANES <= a->channels; d += LANES)
        store(to + d, factor * load(from + d));
    for (; d < a->channels; d++)
        to[d] = factor * from[d];
}

/* Rows of up to ROWS times a factor; what is beyond them is nothing. */
static void lay_rows(
    const Attention *a, const Array *array, number row, number rows, float factor, float *to)
{
    memset(to, 0, ROWS * width(a) * sizeof(float));
    for (number r = 0; r < rows; r++, to += width(a))
        scale_row(a, row_of(array, row + r), factor, to);
}

static void lay_all_rows(const Attention *a, const Array *array, float *to)
{
    for (number n = 0; n < a->keys; n++, to += width(a)) {
        const float *from = row_of(array, n);
        number d = 0;
        for (; d + LANES <= a->channels; d += LANES)
            store(to + d, load(from + d));
        for (; d < width(a); d++)
            to[d] = d < a->channels ? from[d] : 0;
    }
}

/* A vector of each channel, of up to LANES keys; what is beyond them is nothing. */
static void lay_keys(
    const Attention *a, const Array *array, number key, number keys, float *to, number apart)
{
    const float *rows[LANES];
    const number squares = keys == LANES ? a->channels / LANES * LANES : 0;
    for (number n = 0; n < keys; n++)
        rows[n] = row_of(array, key + n);
    for (number d = 0; d < squares; d += LANES) {
        vec square[LANES];
        for (int n = 0; n < LANES; n++)
            square[n] = load(rows[n] + d);
        turn_square(square);
        for (int n = 0; n < LANES; n++)
            store(to + (d + n) * apart, square[n]);
    }
    for (number d = squares; d < a->channels; d++)
        for (number n = 0; n < LANES; n++)
            to[d * apart + n] = n < keys ? rows[n][d] : 0;
}

static void lay_bands(const Attention *a, const Array *array, float *to)
{
    for (number at = 0; at < a->keys; at += WIDE) {
        const number wide = wide_at(a, at), across = least(wide, a->keys - at);
        for (number n = 0; n < wide; n += LANES)
            lay_keys(a, array, at + n, least(LANES, across - n), to + n, wide);
        to += wide * a->channels;
    }
}

/* For the keys `first` to `last`, which come to `length` for each of `outer`: outer + inner. What is
   read beyond `inner` does not matter, and so much may be written beyond `to`. */
static void add_outer(
    const float *outer, const float *inner, number length, number first, number last, float *to)
{
    for (number n = first, count; n < last; n += count, to += count) {
        const number from = n % length;
        const float each = outer[n / length];
        count = least(length - from, last - n);
        for (number t = 0; t < count; t += LANES)
            store(to + t, load(inner + from + t) + each);
    }
}

/* The biases of ROWS rows of keys as sums over axes, `beyond` those the last key. */
static void lay_axes(
    const Attention *a, const Biases *biases, float beyond, number row, number rows, number first,
    number last, float *work, float *to, number to_apart)
{
    static const float zero[1] = {0};
    const number length = a->places[2], plane = a->places[1] * length;
    float *lane = work, *sums = lane + length + LANES;
    for (number r = 0; r < ROWS; r++, to += to_apart) {
        const number from = row + least(r, rows - 1);
        const float *middle = biases->axes[1].first ? row_of(&biases->axes[1], from) : zero;
        memcpy(lane, row_of(&biases->axes[2], from), length * sizeof(float));
        if (biases->axes[0].first) {
            add_outer(middle, lane, length, 0, plane, sums);
            add_outer(row_of(&biases->axes[0], from), sums, plane, first, last, to);
        } else
            add_outer(middle, lane, length, first, last, to);
        for (number n = last; n < up(last, LANES); n++)
            to[n - first] = beyond;
    }
}

/* `start` of ROWS rows plus these rows times W vectors of a band; the largest of each lane. */
INLINE void score(
    const int W, const float *rows, number rows_apart, const float *band, number channels,
    const float *start, number start_apart, float *to, number to_apart, vec *most)
{
    vec sums[ROWS][BAND];
    OVER_ROWS
        OVER_VECTORS
            sums[r][w] = load(start + r * start_apart + w * LANES);
    for (number d = 0; d < channels; d++) {
        vec line[BAND];
        OVER_VECTORS
            line[w] = load(band + (d * W + w) * LANES);
        OVER_ROWS {
            const vec each = splat(rows[r * rows_apart + d]);
            OVER_VECTORS
                sums[r][w] = plus(sums[r][w], each, line[w]);
        }
    }
    OVER_ROWS
        OVER_VECTORS {
            store(to + r * to_apart + w * LANES, sums[r][w]);
            most[r] = larger(most[r], sums[r][w]);
        }
}

APART static void score_band(
    const Attention *a, number wide, const float *rows, const float *band, const float *start,
    number start_apart, float *to, number to_apart, vec *most)
{
    const number w = wide / LANES;
    if (w == BAND)
        score(BAND, rows, width(a), band, a->channels, start, start_apart, to, to_apart, most);
    else if (w == 2)
        score(2, rows, width(a), band, a->channels, start, start_apart, to, to_apart, most);
    else
        score(1, rows, width(a), band, a->channels, start, start_apart, to, to_apart, most);
}

/* What up to ROWS rows give with the keys `first` to `last`: their biases, from `row` on, are where
   it starts, and `beyond` the last key. */
static void score_keys(
    const Attention *a, const Biases *biases, float beyond, number row, number rows,
    const float *queries, const float *bands, number first, number last, float *work, float *to,
    number to_apart, vec *most)
{
    static const float zeros[WIDE] = {0};
    const Array *bias = &biases->all;
    const int laid = biases->axes[2].first != NULL;
    float edge[ROWS * WIDE];
    if (laid)
        lay_axes(a, biases, beyond, row, rows, first, last, work, to, to_apart);
    for (int r = 0; r < ROWS; r++)
        most[r] = splat(-INFINITY);
    for (number at = first; at < last; at += WIDE, to += WIDE) {
        const number wide = wide_at(a, at), across = least(wide, a->keys - at);
        const float *start = edge;
        number apart = WIDE;
        if (laid)
            start = to, apart = to_apart;
        else if (!bias->first && across == wide)
            start = zeros, apart = 0;
        else if (rows == ROWS && across == wide)
            start = row_of(bias, row) + at, apart = bias->apart[2];
        else
            for (number r = 0; r < ROWS; r++) {
                const float *from = zeros;
                if (bias->first)
                    from = row_of(bias, row + least(r, rows - 1)) + at;
                memcpy(edge + r * WIDE, from, across * sizeof(float));
                for (number n = across; n < wide; n++)
                    edge[r * WIDE + n] = beyond;
            }
        score_band(a, wide, queries, bands + at * a->channels, start, apart, to, to_apart, most);
    }
}

/* Scores become weights, against the largest so far; what was summed before shrinks by `kept`. */
static void weigh(
    float *scores, number apart, number keys, const vec *most, float *top, float *sum, float *kept)
{
    for (number r = 0; r < ROWS; r++, scores += apart) {
        const float now = fmaxf(top[r], largest(most[r]));
        vec summed = splat(0);
        for (number n = 0; n < keys; n += LANES) {
            const vec weight = power(load(scores + n) - now);
            store(scores + n, weight);
            summed += weight;
        }
        kept[r] = power(splat(top[r] - now))[0];
        sum[r] = sum[r] * kept[r] + total(summed);
        top[r] = now;
    }
}

/* To each of ROWS rows, what its weights times the rows of keys give is added. */
INLINE void mix_step(
    const int W, const float *weights, number apart, const float *rows, number keys, number across,
    float *to)
{
    vec sums[ROWS][BAND];
    OVER_ROWS
        OVER_VECTORS
            sums[r][w] = load(to + r * across + w * LANES);
    for (number n = 0; n < keys; n++) {
        vec line[BAND];
        OVER_VECTORS
            line[w] = load(rows + n * across + w * LANES);
        OVER_ROWS {
            const vec each = splat(weights[r * apart + n]);
            OVER_VECTORS
                sums[r][w] = plus(sums[r][w], each, line[w]);
        }
    }
    OVER_ROWS
        OVER_VECTORS
            store(to + r * across + w * LANES, sums[r][w]);
}

/* To the row of each key, what its weights times ROWS rows give is added. */
INLINE void spread_step(
    const int W, const float *weights, number apart, const float *rows, number keys, number across,
    float *to)
{
    vec each[ROWS][BAND];
    OVER_ROWS
        OVER_VECTORS
            each[r][w] = load(rows + r * across + w * LANES);
    for (number n = 0; n < keys; n++) {
        vec sums[BAND];
        OVER_VECTORS
            sums[w] = load(to + n * across + w * LANES);
        OVER_ROWS {
            const vec weight = splat(weights[r * apart + n]);
            OVER_VECTORS
                sums[w] = plus(sums[w], weight, each[r][w]);
        }
        OVER_VECTORS
            store(to + n * across + w * LANES, sums[w]);
    }
}

/* Either of them for all channels. */
#define OVER_CHANNELS(NAME) \
    APART static void NAME( \
        const Attention *a, const float *weights, number apart, const float *rows, number keys, \
        float *to) \
    { \
        for (number at = 0, w; at < width(a); at += w * LANES) { \
            const number left = (width(a) - at) / LANES; \
            w = left > 4 || left == BAND ? BAND : least(left, 2); \
            if (w == BAND) \
                NAME##_step(BAND, weights, apart, rows + at, keys, width(a), to + at); \
            else if (w == 2) \
                NAME##_step(2, weights, apart, rows + at, keys, width(a), to + at); \
            else \
                NAME##_step(1, weights, apart, rows + at, keys, width(a), to + at); \
        } \
    }
OVER_CHANNELS(mix)
OVER_CHANNELS(spread)

/* What a thread works in, for one head of a group and for some of its queries. */
typedef struct {
    float *queries, *slopes, *results, *scores, *of_scores, *axes;
    float *keys, *values; /* in bands, or values in rows where no gradients are asked for */
    float *key_rows, *of_keys, *of_values;
} Room;

static float *part(float **space, number count)
{
    float *found = *space;
    *space += up(count, 16); /* a line of the cache */
    return found;
}

static Room room_in(const Attention *a, float **space)
{
    const number near = a->slope.first ? ROWS : NEAR;
    const number few = near * width(a), all = up(a->keys, LANES) * width(a);
    Room room = {part(space, few), part(space, few), part(space, few)};
    room.axes = part(space, (1 + a->places[1]) * a->places[2] + 2 * LANES);
    if (a->slope.first) {
        room.scores = part(space, ROWS * up(a->keys, LANES));
        room.of_scores = part(space, ROWS * up(a->keys, LANES));
        room.key_rows = part(space, all);
        room.of_keys = part(space, all);
        room.of_values = part(space, all);
    } else
        room.scores = part(space, ROWS * CHUNK + LANES); /* where biases are laid somewhat beyond */
    room.keys = part(space, all);
    room.values = part(space, all);
    return room;
}

/* How many floats `attend` or `attend_backward` works on. */
number attend_space(const Attention *a)
{
    float *end = NULL;
    room_in(a, &end);
    return end - (float *)NULL;
}

/* The results of up to NEAR rows. */
static void attend_rows(
    const Attention *a, const Room *room, const Array *query, const Biases *biases, number row,
    number rows, const Array *result)
{
    const number step = ROWS * width(a);
    float top[NEAR], sum[NEAR] = {0}, kept[ROWS];
    for (number n = 0; n < rows; n += ROWS)
        lay_rows(a, query, row + n, least(ROWS, rows - n), a->scale, room->queries + n * width(a));
    memset(room->results, 0, NEAR * width(a) * sizeof(float));
    for (number n = 0; n < NEAR; n++)
        top[n] = -1e30f;
    for (number first = 0; first < a->keys; first += CHUNK) {
        const number last = least(first + CHUNK, a->keys), keys = last - first;
        float *queries = room->queries, *results = room->results;
        for (number n = 0; n < rows; n += ROWS, queries += step, results += step) {
            vec most[ROWS];
            score_keys(
                a, biases, -INFINITY, row + n, least(ROWS, rows - n), queries, room->keys, first,
                last, room->axes, room->scores, CHUNK, most);
            weigh(room->scores, CHUNK, up(keys, LANES), most, top + n, sum + n, kept);
            for (number d = 0; d < (first ? step : 0); d += LANES)
                store(results + d, kept[d / width(a)] * load(results + d));
            mix(a, room->scores, CHUNK, room->values + first * width(a), keys, results);
        }
    }
    for (number n = 0; n < rows; n++)
        scale_row(a, room->results + n * width(a), 1 / sum[n], row_of(result, row + n));
}

/* The heads `begin` to `end` of all groups, one head's of all groups after the other's. */
void attend(const Attention *a, number begin, number end, float *space)
{
    const Room room = room_in(a, &space);
    for (number n = begin; n < end; n++) {
        const number group = n % a->groups, head = n / a->groups;
        const Array key = head_of(&a->key, group, head), value = head_of(&a->value, group, head);
        const Array query = head_of(&a->query, group, head);
        const Array result = head_of(&a->result, group, head);
        const Biases biases = biases_of(&a->bias, a->axes, group, head);
        lay_bands(a, &key, room.keys);
        lay_all_rows(a, &value, room.values);
        for (number row = 0; row < a->queries; row += NEAR)
            attend_rows(a, &room, &query, &biases, row, least(NEAR, a->queries - row), &result);
    }
}

/* The gradient of ROWS rows of scores, from weights that are to be divided by their sum and from
   the gradient of these. */
static void differentiate(const Room *room, number apart, const float *sum)
{
    float *weights = room->scores, *of = room->of_scores;
    for (number r = 0; r < ROWS; r++, weights += apart, of += apart) {
        const float whole = 1 / sum[r];
        vec product = splat(0);
        for (number n = 0; n < apart; n += LANES) {
            const vec weight = whole * load(weights + n);
            store(weights + n, weight);
            product = plus(product, weight, load(of + n));
        }
        const float all = total(product);
        for (number n = 0; n < apart; n += LANES)
            store(of + n, load(weights + n) * (load(of + n) - all));
    }
}

/* The sum of some numbers, which are added to others. */
static float add_and_sum(const float *from, number count, float *to)
{
    vec sum = splat(0);
    number n = 0;
    for (; n + LANES <= count; n += LANES) {
        const vec some = load(from + n);
        store(to + n, load(to + n) + some);
        sum += some;
    }
    float all = total(sum);
    for (; n < count; n++)
        to[n] += from[n], all += from[n];
    return all;
}

/* The gradient of each axis's biases of a query: that of its scores, summed over the other axes. */
static void sum_axes(
    const Attention *a, const float *scores, number row, float *work, const Biases *of)
{
    const number length = a->places[2], plane = a->places[1] * length;
    float *lane = row_of(&of->axes[2], row);
    if (of->axes[0].first) {
        float *to = row_of(&of->axes[0], row);
        memset(work, 0, plane * sizeof(float));
        for (number i = 0; i < a->places[0]; i++)
            to[i] = add_and_sum(scores + i * plane, plane, work);
        scores = work;
    }
    memset(lane, 0, length * sizeof(float));
    for (number j = 0; j < a->places[1]; j++) {
        const float sum = add_and_sum(scores + j * length, length, lane);
        if (of->axes[1].first)
            row_of(&of->axes[1], row)[j] = sum;
    }
}

/* With P = softmax(S), S = scale Q K^T + B, and G the gradient of P V: dV = P^T G,
   dS = P dP - P sum(P dP) with dP = G V^T, dQ = scale dS K, dK = scale dS^T Q, dB = dS. */
static void gradients_of_rows(
    const Attention *a, const Room *room, const Array *query, const Biases *biases,
    const Array *slope, number row, number rows, const Array *of_query, const Biases *of_biases)
{
    static const Biases nothing = {0};
    const Array *of_bias = &of_biases->all;
    const number apart = up(a->keys, LANES);
    float top[ROWS], sum[ROWS] = {0}, kept[ROWS];
    vec most[ROWS];
    for (number r = 0; r < ROWS; r++)
        top[r] = -1e30f;
    lay_rows(a, query, row, rows, a->scale, room->queries);
    lay_rows(a, slope, row, rows, 1, room->slopes);
    score_keys(
        a, biases, -INFINITY, row, rows, room->queries, room->keys, 0, a->keys, room->axes,
        room->scores, apart, most);
    weigh(room->scores, apart, apart, most, top, sum, kept);
    score_keys(
        a, &nothing, 0, row, rows, room->slopes, room->values, 0, a->keys, room->axes,
        room->of_scores, apart, most);
    differentiate(room, apart, sum);
    spread(a, room->scores, apart, room->slopes, a->keys, room->of_values);
    spread(a, room->of_scores, apart, room->queries, a->keys, room->of_keys);
    memset(room->results, 0, ROWS * width(a) * sizeof(float));
    mix(a, room->of_scores, apart, room->key_rows, a->keys, room->results);
    for (number r = 0; r < rows; r++) {
        scale_row(a, room->results + r * width(a), a->scale, row_of(of_query, row + r));
        for (number n = 0; n < (of_bias->first ? a->keys : 0); n++)
            row_of(of_bias, row + r)[n] += room->of_scores[r * apart + n];
        if (of_biases->axes[2].first)
            sum_axes(a, room->of_scores + r * apart, row + r, room->axes, of_biases);
    }
}

static void take_rows(const Attention *a, const float *from, const Array *to)
{
    for (number n = 0; n < a->keys; n++, from += width(a))
        memcpy(row_of(to, n), from, a->channels * sizeof(float));
}

/* The gradients of heads as in `attend`; those of biases are added to what is there. */
void attend_backward(const Attention *a, number begin, number end, float *space)
{
    const Room room = room_in(a, &space);
    const number all = a->keys * width(a) * sizeof(float);
    for (number n = begin; n < end; n++) {
        const number group = n % a->groups, head = n / a->groups;
        const Array key = head_of(&a->key, group, head), value = head_of(&a->value, group, head);
        const Array query = head_of(&a->query, group, head);
        const Array slope = head_of(&a->slope, group, head);
        const Array of_query = head_of(&a->of_query, group, head);
        const Array of_key = head_of(&a->of_key, group, head);
        const Array of_value = head_of(&a->of_value, group, head);
        const Biases biases = biases_of(&a->bias, a->axes, group, head);
        const Biases of_biases = biases_of(&a->of_bias, a->of_axes, group, head);
        lay_bands(a, &key, room.keys);
        lay_bands(a, &value, room.values);
        lay_all_rows(a, &key, room.key_rows);
        memset(room.of_keys, 0, all);
        memset(room.of_values, 0, all);
        for (number row = 0; row < a->queries; row += ROWS)
            gradients_of_rows(
                a, &room, &query, &biases, &slope, row, least(ROWS, a->queries - row), &of_query,
                &of_biases);
        take_rows(a, room.of_keys, &of_key);
        take_rows(a, room.of_values, &of_value);
    }
}
