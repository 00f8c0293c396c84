/* Attention over floats: softmax(scale Q K^T + B) V, a few queries at a time.

   Scores of ROWS queries and up to CHUNK keys stay in a core's first cache. Keys are laid out in bands
   of a few vectors, each with a row for each channel; what lies beyond the last key has no weight. */

#include <math.h>
#include <string.h>

#include "exponential.h"

/* Rows and vectors of a step of a product: as many sums as there are registers. */
#if defined(__AVX512F__) || defined(__ARM_NEON)
enum { ROWS = 8 };
#else
enum { ROWS = 4 };
#endif
enum { BAND = 3, WIDE = BAND * LANES, CHUNK = 8 * WIDE };

/* Arrays (group, head, row, channel), the bias (group, head, query, key); the last axis lies close
   together, along the others they go on `apart` floats further. */
typedef struct {
    const float *query, *key, *value, *bias;
    float *result;
    number query_apart[3], key_apart[3], value_apart[3], bias_apart[3], result_apart[3];
    number groups, queries, keys, channels;
    float scale;
} Attention;

/* What a thread works in: the keys and values of a head, and of some queries themselves, their scores
   with a chunk of keys, and their results. */
typedef struct {
    float *keys, *values, *queries, *scores, *results;
} Room;

static number of_keys(const Attention *a) { return up(a->keys, LANES) * a->channels; }
static number of_values(const Attention *a) { return a->keys * up(a->channels, LANES); }

/* How many floats `attend` works on. */
number attend_space(const Attention *a)
{
    return of_keys(a) + of_values(a) + ROWS * (a->channels + CHUNK + up(a->channels, LANES));
}

static Room room_in(const Attention *a, float *space)
{
    Room room = {.scores = space};
    room.results = room.scores + ROWS * CHUNK;
    room.values = room.results + ROWS * up(a->channels, LANES);
    room.keys = room.values + of_values(a);
    room.queries = room.keys + of_keys(a);
    return room;
}

static number band_at(const Attention *a, number at)
{
    return least(WIDE, up(a->keys, LANES) - at);
}

static void lay_keys(const Attention *a, const float *key, float *to)
{
    for (number at = 0; at < a->keys; at += WIDE) {
        const number wide = band_at(a, at), across = least(wide, a->keys - at);
        if (across < wide)
            memset(to, 0, a->channels * wide * sizeof(float));
        for (number d = 0; d < a->channels; d++)
            for (number n = 0; n < across; n++)
                to[d * wide + n] = key[(at + n) * a->key_apart[2] + d];
        to += a->channels * wide;
    }
}

static void lay_values(const Attention *a, const float *value, float *to)
{
    const number width = up(a->channels, LANES);
    for (number n = 0; n < a->keys; n++, to += width) {
        const float *from = value + n * a->value_apart[2];
        number d = 0;
        for (; d + LANES <= a->channels; d += LANES)
            store(to + d, load(from + d));
        for (; d < width; d++)
            to[d] = d < a->channels ? from[d] : 0;
    }
}

/* Scores of ROWS queries with W vectors of keys, each added to its bias; the largest of each lane. */
INLINE void score(
    const int W, const float *queries, const float *keys, number channels, const float *bias,
    number bias_apart, float *scores, vec *most)
{
    vec sums[ROWS][BAND];
    for (int r = 0; r < ROWS; r++)
        for (int w = 0; w < W; w++)
            sums[r][w] = load(bias + r * bias_apart + w * LANES);
    for (number d = 0; d < channels; d++) {
        vec line[BAND];
        for (int w = 0; w < W; w++)
            line[w] = load(keys + (d * W + w) * LANES);
        for (int r = 0; r < ROWS; r++) {
            const vec each = splat(queries[r * channels + d]);
            for (int w = 0; w < W; w++)
                sums[r][w] = plus(sums[r][w], each, line[w]);
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int w = 0; w < W; w++) {
            store(scores + r * CHUNK + w * LANES, sums[r][w]);
            most[r] = larger(most[r], sums[r][w]);
        }
}

/* Scores of up to ROWS queries with a chunk of keys, a band at a time. */
static void score_chunk(
    const Attention *a, const Room *room, const float *bias, number rows, number first,
    number last, vec *most)
{
    float edge[ROWS * WIDE];
    for (number at = first; at < last; at += WIDE) {
        const number wide = band_at(a, at), across = least(wide, a->keys - at);
        const float *keys = room->keys + at * a->channels, *from = edge;
        float *to = room->scores + at - first;
        number apart = WIDE;
        if (bias && rows == ROWS && across == wide)
            from = bias + at, apart = a->bias_apart[2];
        else
            for (number r = 0; r < ROWS; r++)
                for (number n = 0; n < wide; n++)
                    edge[r * WIDE + n] = n >= across ? -INFINITY
                                         : bias ? bias[least(r, rows - 1) * a->bias_apart[2] + at + n]
                                                : 0;
        if (wide == WIDE)
            score(BAND, room->queries, keys, a->channels, from, apart, to, most);
        else if (wide == 2 * LANES)
            score(2, room->queries, keys, a->channels, from, apart, to, most);
        else
            score(1, room->queries, keys, a->channels, from, apart, to, most);
    }
}

static float largest(vec value)
{
    float found = value[0];
    for (int n = 1; n < LANES; n++)
        found = value[n] > found ? value[n] : found;
    return found;
}

static float total(vec value)
{
    float sum = 0;
    for (int n = 0; n < LANES; n++)
        sum += value[n];
    return sum;
}

/* Scores become weights, against the largest so far; what was summed before shrinks by `kept`. */
static void weigh(float *scores, number keys, const vec *most, float *top, float *sum, float *kept)
{
    for (number r = 0; r < ROWS; r++, scores += CHUNK) {
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

/* W vectors of the results of ROWS queries: what was kept, and weights times values. */
INLINE void mix(
    const int W, const float *weights, const float *values, number keys, number width,
    const float *kept, float *results)
{
    vec sums[ROWS][BAND];
    for (int r = 0; r < ROWS; r++)
        for (int w = 0; w < W; w++)
            sums[r][w] = kept[r] * load(results + r * width + w * LANES);
    for (number n = 0; n < keys; n++) {
        vec line[BAND];
        for (int w = 0; w < W; w++)
            line[w] = load(values + n * width + w * LANES);
        for (int r = 0; r < ROWS; r++) {
            const vec each = splat(weights[r * CHUNK + n]);
            for (int w = 0; w < W; w++)
                sums[r][w] = plus(sums[r][w], each, line[w]);
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int w = 0; w < W; w++)
            store(results + r * width + w * LANES, sums[r][w]);
}

static void mix_chunk(
    const Attention *a, const Room *room, number first, number last, const float *kept)
{
    const number width = up(a->channels, LANES), keys = last - first;
    for (number at = 0, w; at < width; at += w * LANES) {
        const number left = (width - at) / LANES;
        const float *values = room->values + first * width + at;
        float *results = room->results + at;
        w = left > 4 || left == BAND ? BAND : least(left, 2);
        if (w == BAND)
            mix(BAND, room->scores, values, keys, width, kept, results);
        else if (w == 2)
            mix(2, room->scores, values, keys, width, kept, results);
        else
            mix(1, room->scores, values, keys, width, kept, results);
    }
}

/* The results of up to ROWS queries. */
static void attend_rows(
    const Attention *a, const Room *room, const float *query, const float *bias, number rows,
    float *result)
{
    const number width = up(a->channels, LANES);
    float top[ROWS], sum[ROWS], kept[ROWS];
    for (number r = 0; r < ROWS; r++) {
        const float *from = query + least(r, rows - 1) * a->query_apart[2];
        for (number d = 0; d < a->channels; d++)
            room->queries[r * a->channels + d] = a->scale * from[d];
        top[r] = -1e30f, sum[r] = 0;
    }
    memset(room->results, 0, ROWS * width * sizeof(float));
    for (number first = 0; first < a->keys; first += CHUNK) {
        const number last = least(first + CHUNK, a->keys);
        vec most[ROWS];
        for (int r = 0; r < ROWS; r++)
            most[r] = splat(-INFINITY);
        score_chunk(a, room, bias, rows, first, last, most);
        weigh(room->scores, up(last - first, LANES), most, top, sum, kept);
        mix_chunk(a, room, first, last, kept);
    }
    for (number r = 0; r < rows; r++)
        for (number d = 0; d < a->channels; d++)
            result[r * a->result_apart[2] + d] = room->results[r * width + d] / sum[r];
}

static number place(const number apart[3], number group, number head)
{
    return group * apart[0] + head * apart[1];
}

/* The heads `begin` to `end` of all groups, one head's of all groups after the other's. */
void attend(const Attention *a, number begin, number end, float *space)
{
    const Room room = room_in(a, space);
    for (number n = begin; n < end; n++) {
        const number group = n % a->groups, head = n / a->groups;
        const float *query = a->query + place(a->query_apart, group, head);
        const float *bias = a->bias ? a->bias + place(a->bias_apart, group, head) : NULL;
        float *result = a->result + place(a->result_apart, group, head);
        lay_keys(a, a->key + place(a->key_apart, group, head), room.keys);
        lay_values(a, a->value + place(a->value_apart, group, head), room.values);
        for (number row = 0; row < a->queries; row += ROWS)
            attend_rows(
                a, &room, query + row * a->query_apart[2],
                bias ? bias + row * a->bias_apart[2] : NULL, least(ROWS, a->queries - row),
                result + row * a->result_apart[2]);
    }
}
