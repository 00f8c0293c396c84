/* The pruned export of pruned.py for one thread of a CPU.

   Interpolation is a * (1 - t) + b * t along i, then j, then k, in float32 and without contraction
   (compile with -ffp-contract=off), so that not a bit differs from reference.py.
*/

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define RUN 2048
#define NONE 0xFFFF

/* Where n target voxels of an axis lie: after source voxel left, beyond of the way to the next. */
typedef struct {
    const int64_t *left;
    const float *beyond;
    int64_t n;
    int64_t side;
} axis;

typedef struct {
    const float *logits;
    int64_t stride; /* from class to class */
    int64_t classes;
    axis at[3];
    const uint16_t *winner; /* of each source voxel */
    const float *second;    /* the second largest logit there */
} volume;

static inline float mixed(float a, float b, float t) { return a * (1.0f - t) + b * t; }

/* The source voxel after that of target voxel n, or the same where n lies right there. */
static inline int64_t far_of(const axis *along, int64_t n) {
    const int64_t left = along->left[n];
    return left + (along->beyond[n] > 0 && left < along->side - 1);
}

/* The first of the largest class of each voxel, and the second largest logit. */
static void two_largest(const float *logits, int64_t stride, int64_t classes, int64_t voxels,
                        uint16_t *winner, float *second) {
    float best[RUN], lesser[RUN];
    int32_t first[RUN];
    for (int64_t low = 0; low < voxels; low += RUN) {
        const int64_t n = voxels - low < RUN ? voxels - low : RUN;
        for (int64_t v = 0; v < n; v++) {
            best[v] = logits[low + v];
            lesser[v] = -__builtin_inff();
            first[v] = 0;
        }
        for (int32_t c = 1; c < classes; c++) {
            const float *values = logits + c * stride + low;
            for (int64_t v = 0; v < n; v++) {
                const float x = values[v];
                const int wins = x > best[v];
                const float smaller = wins ? best[v] : x;
                lesser[v] = smaller > lesser[v] ? smaller : lesser[v];
                first[v] = wins ? c : first[v];
                best[v] = wins ? x : best[v];
            }
        }
        for (int64_t v = 0; v < n; v++) {
            winner[low + v] = (uint16_t)first[v];
            second[low + v] = lesser[v];
        }
    }
}

/* A row of target voxels along k: the four source rows around it, and how they are mixed. */
typedef struct {
    int64_t offset[2][2]; /* [i][j] */
    float beyond_i, beyond_j;
} row;

static row row_at(const volume *all, int64_t a, int64_t b) {
    const axis *i = &all->at[0], *j = &all->at[1];
    const int64_t width = all->at[2].side, plane = width * j->side;
    const int64_t near_i = i->left[a], far_i = far_of(i, a);
    const int64_t near_j = j->left[b], far_j = far_of(j, b);
    row here = {{{near_i * plane + near_j * width, near_i * plane + far_j * width},
                 {far_i * plane + near_j * width, far_i * plane + far_j * width}},
                i->beyond[a],
                j->beyond[b]};
    return here;
}

static inline float mix_corners(const float *values, const row *here, int64_t k, int64_t next_k,
                                float t) {
    float along_k[2];
    const int64_t ends[2] = {k, next_k};
    for (int e = 0; e < 2; e++) {
        const float near = mixed(values[here->offset[0][0] + ends[e]],
                                 values[here->offset[1][0] + ends[e]], here->beyond_i);
        const float far = mixed(values[here->offset[0][1] + ends[e]],
                                values[here->offset[1][1] + ends[e]], here->beyond_i);
        along_k[e] = mixed(near, far, here->beyond_j);
    }
    return mixed(along_k[0], along_k[1], t);
}

/* The corners' winners, each once and in their order; how many there are. */
static int candidates(const volume *all, const row *here, int64_t k, int64_t next_k,
                      uint16_t *found) {
    int count = 0;
    for (int corner = 0; corner < 8; corner++) {
        const int64_t end = corner & 1 ? next_k : k;
        const uint16_t c = all->winner[here->offset[corner >> 2][(corner >> 1) & 1] + end];
        int place = 0;
        while (place < count && found[place] < c) place++;
        if (place < count && found[place] == c) continue;
        for (int later = count; later > place; later--) found[later] = found[later - 1];
        found[place] = c;
        count++;
    }
    return count;
}

static uint16_t decided(const volume *all, const row *here, int64_t k, int64_t next_k, float t) {
    uint16_t found[8];
    const int count = candidates(all, here, k, next_k, found);
    uint16_t best = found[0];
    float value = mix_corners(all->logits + best * all->stride, here, k, next_k, t);
    for (int n = 1; n < count; n++) {
        const float other = mix_corners(all->logits + found[n] * all->stride, here, k, next_k, t);
        if (other > value) best = found[n], value = other;
    }
    if (value > mix_corners(all->second, here, k, next_k, t)) return best;
    /* A class that wins at no corner may win between them. */
    best = 0, value = mix_corners(all->logits, here, k, next_k, t);
    for (int64_t c = 1; c < all->classes; c++) {
        const float other = mix_corners(all->logits + c * all->stride, here, k, next_k, t);
        if (other > value) best = (uint16_t)c, value = other;
    }
    return best;
}

/* One source row mixed along i and j; `mix` has room for it. */
static void mix_row(const float *values, const row *here, int64_t width, float *restrict mix) {
    const float *v00 = values + here->offset[0][0], *v10 = values + here->offset[1][0];
    const float *v01 = values + here->offset[0][1], *v11 = values + here->offset[1][1];
    const float ti = here->beyond_i, tj = here->beyond_j;
    for (int64_t k = 0; k < width; k++)
        mix[k] = mixed(mixed(v00[k], v10[k], ti), mixed(v01[k], v11[k], ti), tj);
}

/* Every class of every voxel of a row. */
static void decide_densely(const volume *all, const row *here, const int32_t *near,
                           const int32_t *far, float *mix, float *best, uint16_t *labels) {
    const axis *k = &all->at[2];
    for (int32_t c = 0; c < all->classes; c++) {
        mix_row(all->logits + c * all->stride, here, k->side, mix);
        if (c == 0) {
            for (int64_t n = 0; n < k->n; n++) {
                best[n] = mixed(mix[near[n]], mix[far[n]], k->beyond[n]);
                labels[n] = 0;
            }
            continue;
        }
        for (int64_t n = 0; n < k->n; n++) {
            const float value = mixed(mix[near[n]], mix[far[n]], k->beyond[n]);
            const int wins = value > best[n];
            labels[n] = wins ? (uint16_t)c : labels[n];
            best[n] = wins ? value : best[n];
        }
    }
}

/* The winner where the four rows around agree, else NONE. */
static void agree(const volume *all, const row *here, uint16_t *restrict code) {
    const uint16_t *w00 = all->winner + here->offset[0][0], *w01 = all->winner + here->offset[0][1];
    const uint16_t *w10 = all->winner + here->offset[1][0], *w11 = all->winner + here->offset[1][1];
    for (int64_t k = 0; k < all->at[2].side; k++) {
        const int same = (w00[k] == w01[k]) & (w00[k] == w10[k]) & (w00[k] == w11[k]);
        code[k] = same ? w00[k] : NONE;
    }
}

/* Labels (a, b, c), a byte each or two where `wide`; scratch for winner and second of each source
   voxel. 0, or 1 where there is no memory. */
int pruned_argmax(const float *logits, int64_t stride, int64_t classes, const int64_t *sides,
                  const int64_t *counts, const int64_t *left_i, const float *beyond_i,
                  const int64_t *left_j, const float *beyond_j, const int64_t *left_k,
                  const float *beyond_k, uint16_t *winner, float *second, void *labels, int wide) {
    const volume all = {logits,
                        stride,
                        classes,
                        {{left_i, beyond_i, counts[0], sides[0]},
                         {left_j, beyond_j, counts[1], sides[1]},
                         {left_k, beyond_k, counts[2], sides[2]}},
                        winner,
                        second};
    const int64_t width = sides[2], n = counts[2];
    two_largest(logits, stride, classes, sides[0] * sides[1] * width, winner, second);
    int32_t *near = malloc(sizeof(int32_t) * 2 * (size_t)n);
    uint16_t *code = malloc(sizeof(uint16_t) * (size_t)(width + n));
    float *mix = malloc(sizeof(float) * (size_t)(width + n));
    if (!near || !code || !mix) {
        free(near), free(code), free(mix);
        return 1;
    }
    int32_t *far = near + n;
    uint16_t *line = code + width;
    for (int64_t c = 0; c < n; c++) {
        near[c] = (int32_t)left_k[c];
        far[c] = (int32_t)far_of(&all.at[2], c);
    }
    for (int64_t a = 0; a < counts[0]; a++) {
        for (int64_t b = 0; b < counts[1]; b++) {
            const row here = row_at(&all, a, b);
            agree(&all, &here, code);
            int64_t open = 0;
            for (int64_t c = 0; c < n; c++) {
                line[c] = code[near[c]] == code[far[c]] ? code[near[c]] : NONE;
                open += line[c] == NONE;
            }
            if (open * 3 > n)
                decide_densely(&all, &here, near, far, mix, mix + width, line);
            else
                for (int64_t c = 0; open && c < n; c++)
                    if (line[c] == NONE)
                        line[c] = decided(&all, &here, near[c], far[c], beyond_k[c]);
            const int64_t place = (a * counts[1] + b) * n;
            for (int64_t c = 0; c < n; c++) {
                if (wide)
                    ((int16_t *)labels)[place + c] = (int16_t)line[c];
                else
                    ((uint8_t *)labels)[place + c] = (uint8_t)line[c];
            }
        }
    }
    free(near), free(code), free(mix);
    return 0;
}
