/* The selective scan over floats, forward and backward: channels lie side by side in a vector.

   Tokens are taken a block at a time. The states before each block are kept, so that the pass
   backward can run through a block again before it returns through it. */

#include <stdlib.h>

#include "../exponential.h"

/* A tensor (b, d, n), and how far apart its items, channels and tokens lie. */
typedef struct {
    float *data;
    number item, channel, token;
} Map;

typedef struct {
    Map x, step;
    const float *write, *read; /* (b, n, s) */
    const float *decay, *skip; /* (d, s), (d) */
    float *borders;            /* (b, blocks, d, s), the states before each block */
    number channels, tokens, states, block;
} Given;

/* Some channels of an item, as many as fit into a vector, and some of its tokens. */
typedef struct {
    number item, channel;
    int lanes;
    number token, count;
} Part;

static number parts(number size, number part) { return (size + part - 1) / part; }

INLINE float *place(Map map, Part part)
{
    return map.data + part.item * map.item + part.channel * map.channel + part.token * map.token;
}

/* A vector a token; lanes beyond the last channel are 0. */
INLINE void gather(Map map, Part part, vec *to)
{
    const float *from = place(map, part);
    float *into = (float *)to;
    if (part.lanes < LANES)
        for (number t = 0; t < part.count; t++)
            to[t] = splat(0);
    if (map.channel == 1)
        for (number t = 0; t < part.count; t++)
            for (int c = 0; c < part.lanes; c++)
                into[t * LANES + c] = from[t * map.token + c];
    else
        for (int c = 0; c < part.lanes; c++)
            for (number t = 0; t < part.count; t++)
                into[t * LANES + c] = from[c * map.channel + t * map.token];
}

INLINE void scatter(const vec *vectors, Map map, Part part)
{
    const float *from = (const float *)vectors;
    float *to = place(map, part);
    if (map.channel == 1)
        for (number t = 0; t < part.count; t++)
            for (int c = 0; c < part.lanes; c++)
                to[t * map.token + c] = from[t * LANES + c];
    else
        for (int c = 0; c < part.lanes; c++)
            for (number t = 0; t < part.count; t++)
                to[c * map.channel + t * map.token] = from[t * LANES + c];
}

/* Of rows (d, s) a vector a state, or of rows (d) a single one. */
INLINE void turn(const float *rows, Part part, vec *to, const int states)
{
    for (int s = 0; s < states; s++) {
        to[s] = splat(0);
        for (int c = 0; c < part.lanes; c++)
            to[s][c] = rows[(part.channel + c) * states + s];
    }
}

INLINE void turn_back(const vec *from, Part part, float *rows, const int states)
{
    for (int c = 0; c < part.lanes; c++)
        for (int s = 0; s < states; s++)
            rows[(part.channel + c) * states + s] = from[s][c];
}

/* The place in `rows`, (b, blocks, d, s), of the block that the part begins. */
INLINE number border(const Given *given, Part part)
{
    const number blocks = parts(given->tokens, given->block);
    return (part.item * blocks + part.token / given->block) * given->channels * given->states;
}

INLINE Part of_channels(const Given *given, number item, number channel)
{
    return (Part){item, channel, (int)least(given->channels - channel, LANES), 0, 0};
}

INLINE void scan_channels(
    const Given *given, Part part, Map result, vec *room, const int states)
{
    vec *x = room, *step = x + given->block, *out = step + given->block;
    vec decay[states], state[states], skip;
    turn(given->decay, part, decay, states);
    turn(given->skip, part, &skip, 1);
    for (int s = 0; s < states; s++)
        state[s] = splat(0);
    for (; part.token < given->tokens; part.token += given->block) {
        part.count = least(given->tokens - part.token, given->block);
        turn_back(state, part, given->borders + border(given, part), states);
        gather(given->x, part, x);
        gather(given->step, part, step);
        for (number t = 0; t < part.count; t++) {
            const number row = (part.item * given->tokens + part.token + t) * states;
            const float *write = given->write + row, *read = given->read + row;
            const vec gain = step[t] * x[t];
            vec sum = skip * x[t];
#pragma GCC unroll 16
            for (int s = 0; s < states; s++) {
                state[s] = plus(gain * write[s], power(step[t] * decay[s]), state[s]);
                sum = plus(sum, state[s], splat(read[s]));
            }
            out[t] = sum;
        }
        scatter(out, result, part);
    }
}

/* Vectors of all channels of an item. */
number vectors(number channels) { return parts(channels, LANES); }

/* Result and borders of units `begin` to `end` of b x vectors; 1 where there is no memory. */
int scan(const Given *given, Map result, number begin, number end)
{
    const number each = vectors(given->channels);
    vec *room = aligned_alloc(sizeof(vec), sizeof(vec) * 3 * given->block);
    if (!room)
        return 1;
    for (number unit = begin; unit < end; unit++) {
        const Part part = of_channels(given, unit / each, unit % each * LANES);
        if (given->states == 16)
            scan_channels(given, part, result, room, 16);
        else
            scan_channels(given, part, result, room, (int)given->states);
    }
    free(room);
    return 0;
}

/* The gradients that are wanted; where items or channels share one, each its own to be added. */
typedef struct {
    Map x, step;
    float *decay, *skip; /* (b, d, s), (b, d) */
    float *write, *read; /* (b, groups, n, s) */
    number group;        /* channels of a group, a multiple of 16 */
} Wanted;

/* Of a group: the gradient of the state behind the block, sums so far, and room for a block. */
typedef struct {
    vec *later, *decay, *skip; /* each of the group's vectors: s, s, 1 */
    vec *write, *read;         /* block x s, of all vectors; then their lanes are summed */
    vec *x, *step, *slope, *kept, *state;
} Room;

/* The states of a block, state[0] that before it, and what each was multiplied by. */
INLINE void run_again(
    const Given *given, Part part, const vec *decay, const Room *room, const int states)
{
    vec now[states];
    turn(given->borders + border(given, part), part, now, states);
    for (int s = 0; s < states; s++)
        room->state[s] = now[s];
    for (number t = 0; t < part.count; t++) {
        const vec gain = room->step[t] * room->x[t];
        const float *write = given->write + (part.item * given->tokens + part.token + t) * states;
#pragma GCC unroll 16
        for (int s = 0; s < states; s++) {
            const vec keep = power(room->step[t] * decay[s]);
            room->kept[t * states + s] = keep;
            now[s] = plus(gain * write[s], keep, now[s]);
            room->state[(t + 1) * states + s] = now[s];
        }
    }
}

/* Vector `v` of a group, through one block from its last token to its first. */
INLINE void return_channels(
    const Given *given, Map gradient, const Wanted *wanted, Part part, number v, const Room *room,
    const int states)
{
    vec decay[states], skip, later[states], of_decay[states], of_skip = room->skip[v];
    turn(given->decay, part, decay, states);
    turn(given->skip, part, &skip, 1);
    gather(given->x, part, room->x);
    gather(given->step, part, room->step);
    gather(gradient, part, room->slope);
    run_again(given, part, decay, room, states);
    for (int s = 0; s < states; s++) {
        later[s] = room->later[v * states + s];
        of_decay[s] = room->decay[v * states + s];
    }
    for (number t = part.count - 1; t >= 0; t--) {
        const number row = (part.item * given->tokens + part.token + t) * states;
        const float *write = given->write + row, *read = given->read + row;
        const vec x = room->x[t], step = room->step[t], slope = room->slope[t];
        const vec gain = step * x;
        const vec *kept = room->kept + t * states, *state = room->state + t * states;
        vec *of_write = room->write + t * states, *of_read = room->read + t * states;
        vec of_gain = splat(0), of_step = splat(0);
#pragma GCC unroll 16
        for (int s = 0; s < states; s++) {
            const vec now = plus(later[s], slope, splat(read[s]));
            of_read[s] = plus(of_read[s], slope, state[states + s]);
            of_write[s] = plus(of_write[s], now, gain);
            of_gain = plus(of_gain, now, splat(write[s]));
            later[s] = now * kept[s];
            const vec of_exponent = later[s] * state[s];
            of_step = plus(of_step, of_exponent, decay[s]);
            of_decay[s] = plus(of_decay[s], of_exponent, step);
        }
        of_skip = plus(of_skip, slope, x);
        room->x[t] = plus(slope * skip, of_gain, step);
        room->step[t] = plus(of_step, of_gain, x);
    }
    for (int s = 0; s < states; s++) {
        room->later[v * states + s] = later[s];
        room->decay[v * states + s] = of_decay[s];
    }
    room->skip[v] = of_skip;
    scatter(room->x, wanted->x, part);
    scatter(room->step, wanted->step, part);
}

INLINE float summed(const vec *lanes)
{
    typedef float four __attribute__((vector_size(16), may_alias));
    const four *quarters = (const four *)lanes;
    four sum = quarters[0];
    for (int n = 1; n < LANES / 4; n++)
        sum += quarters[n];
    return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

/* A group of channels of an item, from the last block to the first. */
INLINE void return_group(
    const Given *given, Map gradient, const Wanted *wanted, number unit, const Room *room,
    const int states)
{
    const number groups = parts(given->channels, wanted->group), size = given->tokens * states;
    const number item = unit / groups, first = unit % groups * wanted->group;
    const number count = vectors(least(given->channels - first, wanted->group));
    for (number n = 0; n < count * states; n++)
        room->later[n] = room->decay[n] = splat(0);
    for (number v = 0; v < count; v++)
        room->skip[v] = splat(0);
    for (number block = parts(given->tokens, given->block) - 1; block >= 0; block--) {
        const number token = block * given->block;
        const number tokens = least(given->tokens - token, given->block);
        for (number n = 0; n < tokens * states; n++)
            room->write[n] = room->read[n] = splat(0);
        for (number v = 0; v < count; v++) {
            Part part = of_channels(given, item, first + v * LANES);
            part.token = token;
            part.count = tokens;
            return_channels(given, gradient, wanted, part, v, room, states);
        }
        for (number n = 0; n < tokens * states; n++) {
            wanted->write[unit * size + token * states + n] = summed(room->write + n);
            wanted->read[unit * size + token * states + n] = summed(room->read + n);
        }
    }
    for (number v = 0; v < count; v++) {
        const Part part = of_channels(given, item, first + v * LANES);
        const number row = item * given->channels;
        turn_back(room->decay + v * states, part, wanted->decay + row * states, states);
        turn_back(room->skip + v, part, wanted->skip + row, 1);
    }
}

/* Units `begin` to `end` of b x groups, one after the other; 1 where there is no memory. */
int scan_backward(const Given *given, Map gradient, const Wanted *wanted, number begin, number end)
{
    const number block = given->block, states = given->states, count = vectors(wanted->group);
    const number size = count * (2 * states + 1) + block * (4 * states + 3) + states;
    vec *from = aligned_alloc(sizeof(vec), sizeof(vec) * size);
    if (!from)
        return 1;
    Room room;
    room.later = from;
    room.decay = room.later + count * states;
    room.skip = room.decay + count * states;
    room.write = room.skip + count;
    room.read = room.write + block * states;
    room.x = room.read + block * states;
    room.step = room.x + block;
    room.slope = room.step + block;
    room.kept = room.slope + block;
    room.state = room.kept + block * states;
    for (number unit = begin; unit < end; unit++) {
        if (states == 16)
            return_group(given, gradient, wanted, unit, &room, 16);
        else
            return_group(given, gradient, wanted, unit, &room, (int)states);
    }
    free(from);
    return 0;
}
